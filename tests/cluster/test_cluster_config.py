"""How `cluster.toml` is read, what a short one means, and what is refused in one line."""

from pathlib import Path

import pytest

from cluster import routings
from cluster.cluster_config import KERNELS, POLICIES, ROUTINGS, read
from lorajax.cli_serve import serve

MIB = 2**20
FULL = """
[model]
path = "base"
dtype = "float32"
[cluster]
coordinator = "10.0.0.1:6000"
gateway = "10.0.0.1:6001"
http = "10.0.0.1:8000"
rendezvous = "10.0.0.1:6002"
nodes = ["10.0.0.1", "10.0.0.2:7000"]
replicas = 2
processes_per_replica = 2
devices_per_process = 4
transfer = "collective"
state_dir = "state"
speeds = [1, 0.5]
drain_s = 5
insecure = true
[adapters]
roots = ["adapters"]
preload = { sql = "adapters/sql" }
min_copies = 2
[engine]
kv_bytes = "64MiB"
adapter_bytes = 1048576
host_adapter_bytes = "2MiB"
max_batch_tokens = 32
max_sequences = 4
kernels = "xla"
[placement]
policy = "loraserve"
routing = "a.module:ROUTING"
interval_s = 2.5
operating_points = "points.json"
budget_bytes = "3MiB"
[slo]
ttft_p95_s = 0.5
tbt_p95_s = 0.05
"""


@pytest.fixture
def parse(tmp_path):
    def parsed(text):
        file = tmp_path / "cluster.toml"
        file.write_text(text)
        return read(file, tmp_path / "home")

    return parsed


def cluster(lines):
    return f'[model]\npath = "base"\n[cluster]\n{lines}\n'


def refusal(parse, text):
    with pytest.raises(ValueError, match=r".") as refused:
        parse(text)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("coordinator", "10.0.0.1:6000"),
        ("gateway", "10.0.0.1:6001"),
        ("http", "10.0.0.1:8000"),
        ("rendezvous", "10.0.0.1:6002"),
        ("nodes", ("10.0.0.1", "10.0.0.2:7000")),
        ("num_processes", 4),
        ("devices_per_process", 4),
        ("speeds", (1.0, 0.5)),
        ("drain_s", 5.0),
        ("min_copies", 2),
        ("kernels", "xla"),
        ("policy", "loraserve"),
        ("routing", "a.module:ROUTING"),
        ("interval_s", 2.5),
        ("budget_bytes", 3 * MIB),
        ("ttft_p95_s", 0.5),
        ("tbt_p95_s", 0.05),
    ],
)
def test_every_key_becomes_a_field(parse, field, value):
    assert getattr(parse(FULL), field) == value


def test_speed_of_a_process_is_that_of_its_replica(parse):
    config = parse(FULL)
    assert [config.speed_of(process) for process in range(4)] == [1.0, 1.0, 0.5, 0.5]


def test_replicas_are_alike_where_nothing_is_said(parse):
    assert parse(cluster("replicas = 2")).speed_of(1) == 1.0


def test_paths_are_relative_to_the_file(parse, tmp_path):
    config = parse(FULL)
    found = (config.model, config.state_dir, *config.roots, config.preload[0][1], config.operating_points)
    assert found == tuple(tmp_path / name for name in ("base", "state", "adapters", "adapters/sql", "points.json"))


def test_engine_sizes_are_bytes(parse):
    engine = parse(FULL).engine
    assert (engine.kv_bytes, engine.adapter_bytes, engine.host_adapter_bytes) == (64 * MIB, MIB, 2 * MIB)


def test_engine_takes_its_dtype_from_the_model_and_its_devices_from_the_cluster(parse):
    assert (parse(FULL).engine.dtype, parse(FULL).engine.tensor_parallel) == ("float32", 8)


def test_a_model_is_all_that_is_needed(parse):
    config = parse('[model]\npath = "base"')
    assert (config.coordinator, config.nodes, config.num_processes) == ("127.0.0.1:50051", (), 1)


def test_state_of_two_files_of_one_name_is_kept_apart(tmp_path):
    files = tmp_path / "a" / "cluster.toml", tmp_path / "b" / "cluster.toml"
    for file in files:
        file.parent.mkdir()
        file.write_text('[model]\npath = "base"')
    first, second = (read(file, tmp_path).state_dir for file in files)
    assert (first != second, first.parent) == (True, tmp_path / "lorajax")


def test_nodes_without_replicas_hold_one_each(parse):
    assert parse(cluster('nodes = ["127.0.0.1", "127.0.0.1"]')).replicas == 2


def test_nodes_of_one_replica_share_it(parse):
    assert parse(cluster('nodes = ["127.0.0.1", "127.0.0.1"]\nprocesses_per_replica = 2')).replicas == 1


def test_coordinator_is_on_the_first_node_where_it_is_not_named(parse):
    assert parse(cluster('nodes = ["10.0.0.7:9000"]\ninsecure = true')).coordinator == "10.0.0.7:50051"


def test_kernels_are_those_that_serve_offers():
    (option,) = (param for param in serve.params if param.name == "kernels")
    assert tuple(option.type.choices) == KERNELS


def test_a_policy_may_be_anyones_function(parse):
    assert parse(cluster('[placement]\npolicy = "a.module:place"')).policy == "a.module:place"


def test_policies_are_those_that_placement_has():
    placement = pytest.importorskip("cluster.placement")
    assert tuple(placement.POLICIES) == POLICIES


def test_routings_are_those_that_there_are():
    assert tuple(routings.ROUTINGS) == ROUTINGS


def test_fingerprint_tells_the_dtype_apart(parse):
    other = parse(FULL.replace("float32", "bfloat16"))
    assert parse(FULL).fingerprint_id != other.fingerprint_id


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "model.path is missing"),
        ("[model]\npath = 3", "model.path is 3; it must be a text"),
        ("[modell]", "[modell] is not a table of it; did you mean [model]?"),
        ("model = 3", "model is a value; write the table [model]"),
        ('[model]\npath = "x"\ndtype = "int4"', "model.dtype is 'int4'; it must be one of float32, bfloat16, float16"),
        (cluster("replica = 2"), "cluster.replica is not a key of [cluster]; did you mean replicas?"),
        (cluster("replicas = 0"), "cluster.replicas is 0; it must be a whole number of at least 1"),
        (cluster("replicas = true"), "cluster.replicas is True; it must be a whole number"),
        (cluster("speeds = [0]"), "cluster.speeds is [0]; it must be a positive number, such as 0.5"),
        (cluster("replicas = 3\nspeeds = [1, 2]"), "cluster.speeds has 2 numbers for 3 replicas; give one for each"),
        (cluster('transfer = "rdma"'), "cluster.transfer is 'rdma'; it must be one of collective, stream"),
        (cluster('coordinator = "here"'), "cluster.coordinator is 'here'; 'here' is not an address"),
        (cluster('nodes = "here"'), "cluster.nodes is 'here'; it must be a list"),
        (cluster('nodes = ["h:x"]'), "cluster.nodes is ['h:x']; 'h:x' is not an address"),
        (cluster("drain_s = inf"), "cluster.drain_s is inf; it must be a positive number of seconds"),
        (cluster("drain_s = 3601"), "cluster.drain_s is 3601; it must lie in 0 … 3600 seconds"),
        (cluster('insecure = "no"'), "cluster.insecure is 'no'; it must be true or false"),
        (cluster('coordinator = "10.0.0.1:1"'), "cluster.coordinator: 10.0.0.1 can be reached from other machines"),
        (cluster('nodes = ["gpu1"]'), "set cluster.insecure = true"),
        (cluster('transfer = "stream"\nprocesses_per_replica = 2'), "cluster.processes_per_replica is 2, which needs"),
        (cluster('[engine]\nkv_bytes = "1XB"'), "engine.kv_bytes is '1XB'; '1XB' is not a size"),
        (cluster("[engine]\nkv_bytes = -1"), "engine.kv_bytes is -1"),
        (cluster("[engine]\nmax_batch_tokens = 1"), "engine.max_batch_tokens 1 is below max_sequences"),
        (cluster('[engine]\ndtype = "float32"'), "engine.dtype is 'float32'; it follows from model.dtype; set that"),
        (cluster("[engine]\ntensor_parallel = 2"), "it follows from cluster.processes_per_replica x"),
        (cluster('[adapters.preload]\n"../x" = "y"'), "'../x' must be letters, digits"),
        (cluster('[adapters]\npreload = ["x"]'), "adapters.preload is ['x']; it must be a table"),
        (cluster('[placement]\npolicy = "best"'), "placement.policy is 'best'; it must be one of ours, loraserve"),
        (
            cluster('[placement]\nrouting = "best"'),
            "placement.routing is 'best'; it must be one of ours, or MODULE:NAME",
        ),
        ("[model", "cluster.toml: Expected"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_key(parse, text, words):
    assert words in refusal(parse, text)


def test_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.toml: No such file"):
        read(tmp_path / "nowhere.toml", Path())
