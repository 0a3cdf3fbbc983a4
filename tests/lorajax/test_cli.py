"""The command line as its user meets it: what is refused, what is taught, what is printed, how it ends."""

import json
import signal
import subprocess
import sys
import threading

import grpc
import pytest
from click.testing import CliRunner

from lorajax.cli import main
from tests.cluster.scripted_server import FINAL, answer, fail, serving, tokens

COMMANDS = ("demo", "serve", "doctor", "generate", "chat", "adapter", "status", "drain", "convert")


def run(*args, text=None):
    return CliRunner().invoke(main, args, input=text, prog_name="lorajax")


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_the_root_names_every_command(command):
    assert f"\n  {command} " in run("--help").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    result = run(command, "--help")
    assert (result.exit_code, result.stdout.split(maxsplit=1)[0]) == (0, "Usage:")


@pytest.mark.parametrize("command", ["serve", "generate", "adapter", "convert"])
def test_help_teaches_by_example(command):
    assert f"\n    lorajax {command} " in run(command, "--help").stdout


def test_commands_that_only_talk_never_wait_for_jax():
    code = "import sys, lorajax.cli; raise SystemExit('jax' in sys.modules)"
    assert subprocess.run((sys.executable, "-c", code), check=False).returncode == 0


def test_version_is_printed():
    assert run("--version").stdout.startswith("lorajax 0.")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("genrate", "x"), "Did you mean 'generate'?"),
        (("generate", "--adaptor", "x", "y"), "Did you mean '--adapter'?"),
        (("generate", "--target", "nowhere", "x"), "'nowhere' is not an address; write HOST:PORT"),
        (("generate", "--adapter", "a=b", "x"), "'--adapter': 'a=b' is not NAME or NAME=WEIGHT"),
        (("generate", "--adapter", "=1", "x"), "'=1' is not NAME"),
        (("generate", "--top-p", "3", "x"), "--top-p is 3.0; it must lie in (0, 1]"),
        (("generate", "--temperature", "-1", "x"), "--temperature is -1.0; it must lie in 0 … 2"),
        (("generate", "--max-tokens", "0", "x"), "--max-tokens is 0"),
        (("generate", "--logprobs", "2", "x"), "add --json"),
        (("generate", "--timeout-s", "0", "x"), "'--timeout-s'"),
        (("generate", "caf\udce9"), "PROMPT is not UTF-8"),
        (
            ("serve", "--kv-bytes", "1XB"),
            "'--kv-bytes': '1XB' is not a size; write a number and a unit, such as 256MiB",
        ),
        (("serve", "--adapter", "pirate"), "'--adapter': 'pirate' is not NAME=DIR"),
        (("serve", "--adapter", "pirate=~/no/such/folder"), "'--adapter': '~/no/such/folder' of"),
        (("serve", "--model", "Qwen/Qwen3-0.6B"), "'--model': 'Qwen/Qwen3-0.6B' is not there"),
        (("serve", "--dtype", "int4"), "'--dtype'"),
        (("adapter", "lst"), "Did you mean 'list'?"),
    ],
)
def test_bad_usage_is_one_line_that_names_the_flag_and_exit_2(args, words):
    result = run(*args)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert words in result.stderr


def test_serving_strangers_must_be_asked_for(model):
    result = run("serve", "--model", model, "--grpc", "0.0.0.0:50051")
    assert (result.exit_code, "--insecure" in result.stderr) == (2, True)


def test_impossible_sizes_name_their_flag(model):
    result = run("serve", "--model", model, "--max-batch-tokens", "4")
    assert (result.exit_code, "--max-batch-tokens 4 is below" in result.stderr) == (2, True)


def test_generate_streams_plain_text():
    with serving(answer(tokens("Paris", "."), FINAL)) as server:
        result = run("generate", "--target", server.target, "Where?")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Paris.\n", "")


def test_generate_asks_as_chat_unless_raw():
    with serving(answer(FINAL)) as server:
        run("generate", "--target", server.target, "x")
        run("generate", "--target", server.target, "--raw", "x")
    assert [request.WhichOneof("prompt") for request in server.requests] == ["chat", "text"]


def test_generate_reads_standard_input_for_a_dash():
    with serving(answer(FINAL)) as server:
        run("generate", "--target", server.target, "--raw", "-", text="from a pipe")
    assert server.requests[0].text == "from a pipe"


def test_generate_sends_every_adapter_with_its_weight():
    with serving(answer(FINAL)) as server:
        run("generate", "--target", server.target, "--adapter", "a", "--adapter", "b=0.25", "x")
    assert [(use.name, use.weight) for use in server.requests[0].adapters] == [("a", 1.0), ("b", 0.25)]


def test_json_output_is_one_object_per_line():
    with serving(answer(tokens("a"), FINAL)) as server:
        result = run("generate", "--target", server.target, "--json", "x")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert (lines[0]["token"]["text"], lines[1]["final"]["host"]) == ("a", "here")


def test_a_failed_call_is_one_line_and_exit_1():
    with serving(fail(grpc.StatusCode.NOT_FOUND, "no adapter 'pirat'; did you mean 'pirate'?")) as server:
        result = run("generate", "--target", server.target, "--adapter", "pirat", "x")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: no adapter 'pirat'; did you mean 'pirate'?\n"


def interrupt_after_a_token(context):
    yield tokens("a")
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    while context.is_active():
        yield tokens("b")


def test_an_interrupt_ends_quietly_with_130():
    with serving(interrupt_after_a_token) as server:
        result = run("generate", "--target", server.target, "x")
    assert (result.exit_code, result.stderr.strip()) == (130, "")


def test_an_interrupt_in_chat_stops_the_answer_alone():
    with serving(interrupt_after_a_token, answer(tokens("one"), FINAL)) as server:
        result = run("chat", "--target", server.target, text="first\nsecond\n")
    assert (result.exit_code, len(server.requests[1].chat.messages)) == (0, 1)


def test_chat_remembers_what_was_said():
    with serving(answer(tokens("one"), FINAL)) as server:
        run("chat", "--target", server.target, text="first\nsecond\n/quit\n")
    assert [message.content for message in server.requests[1].chat.messages] == ["first", "one", "second"]


def test_chat_changes_adapters_and_forgets_on_request():
    with serving(answer(tokens("one"), FINAL)) as server:
        run("chat", "--target", server.target, text="first\n/adapter pirate=0.5\n/new\nsecond\n")
    assert (server.requests[1].adapters[0].weight, len(server.requests[1].chat.messages)) == (0.5, 1)


def test_chat_goes_on_after_a_failed_question_and_forgets_it():
    turns = (fail(grpc.StatusCode.NOT_FOUND, "no adapter"), answer(tokens("one"), FINAL))
    with serving(*turns) as server:
        result = run("chat", "--target", server.target, text="first\nsecond\n")
    assert (result.exit_code, len(server.requests[1].chat.messages)) == (0, 1)


def test_adapter_list_shows_rank_pages_size_and_place():
    with serving(answer(FINAL)) as server:
        row = run("adapter", "list", "--target", server.target).stdout.splitlines()[-1]
    assert row.split() == ["pirate", "12", "2", "3", "MiB", "yes", "here:", "device", "abababababab"]


def test_adapter_load_sends_a_local_folder_as_an_absolute_path(tmp_path):
    with serving(answer(FINAL)) as server:
        result = run("adapter", "load", "--target", server.target, "--pin", "pirate", str(tmp_path))
    assert (server.requests[0].path, server.requests[0].pin, result.exit_code) == (str(tmp_path), True, 0)


def test_adapter_unload_tells_what_still_runs():
    with serving(answer(FINAL)) as server:
        result = run("adapter", "unload", "--target", server.target, "pirate")
    assert result.stdout == "pirate is unloaded; requests still finishing on it: 2\n"


def test_adapter_pin_off_lets_go():
    with serving(answer(FINAL)) as server:
        result = run("adapter", "pin", "--target", server.target, "--off", "pirate")
    assert result.stdout == "pirate is no longer pinned\n"


def test_status_shows_every_host_and_its_adapters():
    with serving(answer(FINAL)) as server:
        shown = run("status", "--target", server.target).stdout
    assert "here  serving  tiny" in shown
    assert "Adapters of here" in shown


def test_status_as_json_is_one_host_per_line():
    with serving(answer(FINAL)) as server:
        (line,) = run("status", "--target", server.target, "--json").stdout.splitlines()
    assert json.loads(line)["kv_pages"] == [3, 9]


def test_drain_tells_what_still_runs():
    with serving(answer(FINAL)) as server:
        result = run("drain", "--target", server.target)
    assert result.stdout == f"{server.target} is draining; requests still finishing: 1\n"
