"""Public formats are read as published, and bad rows are named."""

import gzip
import io
import tarfile

import numpy as np
import pytest

from benchmarks.workloads import files
from benchmarks.workloads.loaders import read
from benchmarks.workloads.records import Arrival, Workload

GENTD26_TIMES = """gmt_create,exec_time_seconds,groupId,prompt_length,num_images_per_prompt,num_inference_steps,num_lora
2024-11-15 16:57:50,32.0,G0,63.0,1.0,30.0,1
2024-11-15 16:58:00,40.0,G1,93.0,1.0,40.0,0
"""
GENTD26_ADAPTERS = """exec_time_seconds,prompt_length,num_images_per_prompt,num_inference_steps,lora_args
22.0,54.0,1.0,30.0,"[{'modelVersionId': 'x', 'scale': 1.0}]"
32.0,63.0,1.0,30.0,"[{'modelVersionId': 'y', 'scale': 1.0}, {'modelVersionId': 'x', 'scale': 0.0}]"
40.0,93.0,1.0,40.0,[]
"""


@pytest.fixture
def file_of(tmp_path):
    def write(text, name="trace.csv"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


def test_azure_as_published(file_of):
    trace = read(
        file_of(
            "TIMESTAMP,ContextTokens,GeneratedTokens\n"
            "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n"
        )
    )
    np.testing.assert_allclose(trace.at_s, [0, 0.052], atol=1e-6)
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == ([4808, 3180], [10, 8])


def test_azure_of_2024_has_a_time_zone(file_of):
    trace = read(
        file_of(
            "TIMESTAMP,ContextTokens,GeneratedTokens\n"
            "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:01+00:00,1,1\n"
        )
    )
    np.testing.assert_allclose(trace.at_s, [0, 0.99007], atol=1e-6)


@pytest.mark.parametrize("name", ["azure.csv", "azure.csv.gz"])
def test_compact_azure(file_of, name):
    trace = read(file_of("t_s,prompt_tokens,output_tokens\n0.0,4808,10\n0.052,3180,8\n", name))
    assert trace.at_s.tolist() == [0, 0.052]


def test_compact_gentd26_has_order_without_times_and_the_first_of_several_adapters(file_of):
    trace = read(file_of("t_s,tenant,lora_ids,scales,base_model\n,,L1,1,M0\n5,G0,L2;L1,1;1,M0\n9,G1,,,M0\n"))
    np.testing.assert_array_equal(trace.at_s, [np.nan, 0, 4])
    assert trace.adapters == ("L1", "L2", "")
    assert trace.tenants == ("", "G0", "G1")


def test_gentd26_folder_joins_times_with_the_last_adapters(file_of, tmp_path):
    file_of(GENTD26_TIMES, "lora_request_trace.csv")
    with tarfile.open(tmp_path / "data_trace_processed.tar.gz", "w:gz") as archive:
        for name, text in (("._data.csv", "no"), ("data.csv", GENTD26_ADAPTERS)):
            about = tarfile.TarInfo(name)
            about.size = len(text)
            archive.addfile(about, io.BytesIO(text.encode()))
    trace = read(tmp_path)
    np.testing.assert_array_equal(trace.at_s, [np.nan, 0, 10])
    assert trace.adapters == ("x", "y", "")
    assert trace.tenants == ("", "G0", "G1")


def test_gentd26_of_two_commits_is_not_joined(file_of, tmp_path):
    file_of(GENTD26_TIMES, "lora_request_trace.csv")
    file_of(GENTD26_ADAPTERS.replace("40.0,93.0", "41.0,93.0"), "data_trace_processed.csv")
    with pytest.raises(ValueError, match="take both from one commit"):
        read(tmp_path)


def test_json_lines_with_common_names(file_of):
    trace = read(
        file_of(
            '{"timestamp_ms": 1500, "input_length": 7, "output_length": 2, "adapter": null, "user": 3}\n', "t.jsonl"
        )
    )
    assert trace.at_s.tolist() == [0]
    assert (trace.prompt_tokens.tolist(), trace.adapters, trace.tenants) == ([7], ("",), ("3",))


@pytest.mark.parametrize("turn", [1, -1])
def test_json_lines_need_not_all_have_an_adapter(file_of, turn):
    lines = ['{"t_s": 0, "prompt_tokens": 9}', '{"t_s": 1, "prompt_tokens": 9, "adapter": "a"}'][::turn]
    assert read(file_of("\n".join(lines), "t.jsonl")).adapters == ("", "a")[::turn]


@pytest.mark.parametrize(
    "line", ['{"timestamp": 3000, "input_length": 9, "hash_ids": [1]}', '{"timestamp": 1700000000000}']
)
def test_times_that_may_be_milliseconds_are_asked_about(file_of, line):
    path = file_of(f"{line}\n{line.replace('000', '001', 1)}\n", "t.jsonl")
    with pytest.raises(ValueError, match="say --columns time=timestamp, or --columns time_ms=timestamp"):
        read(path)
    assert read(path, {"time_ms": "timestamp"}).at_s.max() < read(path, {"time": "timestamp"}).at_s.max()


@pytest.mark.parametrize("mark", [";", "\t"], ids=["semicolon", "tab"])
def test_cells_may_be_kept_apart_otherwise(file_of, mark):
    trace = read(file_of("t_s,input_tokens\n0,7\n".replace(",", mark)))
    assert trace.prompt_tokens.tolist() == [7]


def test_columns_are_named_by_the_user(file_of):
    path = file_of("when,what,timestamp\n1000,a,x\n3000,b,x\n")
    trace = read(path, {"time_ms": "when", "adapter": "what"})
    assert (trace.at_s.tolist(), trace.adapters) == ([0, 2], ("a", "b"))


def test_rank_of_each_adapter_is_known_where_the_file_has_it(file_of):
    assert read(file_of("t_s,adapter,rank\n0,a,8\n1,,0\n2,b,64\n")).ranks == {"a": 8, "b": 64}


def test_row_of_the_base_model_needs_no_rank(file_of):
    assert read(file_of("t_s,adapter,rank\n0,a,8\n1,,\n2,a,\n")).ranks == {"a": 8}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("t_s,adapter,rank\n0,a,8\n1,a,64\n", "adapter a has ranks 8 and 64"),
        ("t_s,adapter,rank\n0,a,8\n1,b,\n", "adapter b has no rank"),
        ("t_s,adapter,rank\n0,a,0\n1,b,8\n", "adapter a has no rank"),
        ("t_s,prompt_tokens,prompt_tokens\n0,1000,7\n", "two columns 'prompt_tokens'"),
        ("t_s,prompt_tokens\n0,1e30\n", "prompt_tokens is '1e30'"),
    ],
)
def test_file_that_says_two_things_or_too_much_is_refused(file_of, text, words):
    with pytest.raises(ValueError, match=words):
        read(file_of(text))


def test_popular_adapters_come_first_and_a_choice_of_them_keeps_its_rows(file_of):
    trace = read(file_of("t_s,adapter\n0,a\n1,b\n2,c\n3,b\n4,\n"))
    assert trace.popular() == ("b", "a", "c")
    assert trace.among(("b", "")).at_s.tolist() == [1, 3, 4]


def test_rows_are_put_into_order_and_last_one_mean_gap_longer(file_of):
    trace = read(file_of("t_s,adapter\n4,c\n,x\n0,a\n2,b\n")).timed()
    assert (trace.at_s.tolist(), trace.adapters, trace.duration_s) == ([0, 2, 4], ("a", "b", "c"), 6)


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.jsonl.gz"])
def test_workload_that_was_written_is_read_back(tmp_path, name):
    arrivals = (Arrival(0.1, 10, 2, "a", "t"), Arrival(0.30000000000000004, 20, 3))
    workload = Workload(name="mine", arrivals=arrivals, ranks={"a": 8, "idle": 64}, facts={"duration_s": 2.5})
    files.write(tmp_path / name, workload)
    trace = read(tmp_path / name).timed()
    assert trace.at_s.tolist() == [0.1, 0.30000000000000004]
    assert (trace.ranks, trace.duration_s, trace.adapters) == ({"a": 8, "idle": 64}, 2.5, ("a", ""))


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("t_s,prompt_tokens\n0,1\n1,x\n", "a.csv", r"a\.csv:3: prompt_tokens is 'x'; write a whole number of tokens"),
        ("t_s,prompt_tokens\n0,-1\n", "a.csv", r"a\.csv:2: prompt_tokens is '-1'; write"),
        ("t_s,prompt_tokens\n0,\n", "a.csv", r"a\.csv:2: prompt_tokens is missing; write"),
        ("t_s,prompt_tokens\nnoon,1\n", "a.csv", r"a\.csv:2: t_s is 'noon'; write seconds, or a date"),
        ("t_s,prompt_tokens\n0,1\n1\n", "a.csv", r"a\.csv:3: not as many cells as the header has"),
        (
            "what,ever\n0,1\n",
            "a.csv",
            r"a\.csv: none of what, ever is a known name; say which is which: --columns time=",
        ),
        ("", "a.csv", r"a\.csv has no requests; give a file with a header and rows"),
        ('{"t_s": 0}\n{"t_s"\n', "a.jsonl", r"a\.jsonl:2: .*; write one JSON object a line"),
        ("7\n", "a.jsonl", r"a\.jsonl:1: 7 is no object; write one JSON object a line"),
        ('{"t_s": 0}\n{}\n', "a.jsonl", r"a\.jsonl:2: t_s is missing; write seconds"),
    ],
)
def test_bad_row_is_named_with_its_line_and_the_fix(file_of, text, name, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(file_of(text, name))
    assert "\n" not in str(caught.value)


def test_file_that_is_not_packed_as_it_says_is_refused(file_of, tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_text("t_s\n1\n")
    with pytest.raises(ValueError, match="give a readable"):
        read(path)


def test_column_that_is_not_there_is_refused(file_of):
    with pytest.raises(ValueError, match="time=when: the file has t_s, adapter; name one of them"):
        read(file_of("t_s,adapter\n0,a\n"), {"time": "when"})


def test_trace_without_times_has_no_order_in_time(file_of):
    with pytest.raises(ValueError, match="has 0 rows with a time"):
        read(file_of("adapter\na\n")).timed()
