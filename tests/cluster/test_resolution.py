"""Which node this is, by what each scheduler leaves in the environment."""

import pytest

from cluster.resolution import Seat, expand_nodelist, find_seat

LORAJAX = {"LORAJAX_NODE_RANK": "1"}
LWS = {"LWS_WORKER_INDEX": "2", "LWS_GROUP_SIZE": "3", "LWS_LEADER_ADDRESS": "lj-0.lj.default"}
SLURM = {"SLURM_NODEID": "1", "SLURM_PROCID": "1", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "gpu[1-2]"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"}
INDEXED = {"JOB_COMPLETION_INDEX": "4"}


def test_nothing_set_is_a_single_host():
    assert find_seat(None, {}) == Seat(rank=0, source="no scheduler", num_nodes=1)


@pytest.mark.parametrize(
    ("environment", "seat"),
    [
        (LORAJAX, Seat(rank=1, source="LORAJAX_NODE_RANK")),
        (
            LWS,
            Seat(
                rank=2,
                source="LWS_WORKER_INDEX",
                num_nodes=3,
                names=("lj-0.lj.default", "lj-0-1.lj.default", "lj-0-2.lj.default"),
            ),
        ),
        (SLURM, Seat(rank=1, source="SLURM_NODEID", num_nodes=2, names=("gpu1", "gpu2"))),
        ({"SLURM_PROCID": "1", "SLURM_NNODES": "2"}, Seat(rank=1, source="SLURM_PROCID", num_nodes=2)),
        (OPEN_MPI, Seat(rank=3, source="OMPI_COMM_WORLD_RANK", num_nodes=4)),
        (INDEXED, Seat(rank=4, source="JOB_COMPLETION_INDEX")),
    ],
)
def test_each_scheduler_is_understood(environment, seat):
    assert find_seat(None, environment) == seat


def test_flag_goes_before_every_variable():
    assert find_seat(0, LORAJAX | OPEN_MPI | INDEXED) == Seat(rank=0, source="--node-rank")


def test_flag_and_own_variable_keep_the_nodes_that_a_scheduler_names():
    flag, variable = find_seat(0, SLURM), find_seat(None, LORAJAX | LWS)
    assert (flag.rank, flag.source, flag.names, flag.num_nodes) == (0, "--node-rank", ("gpu1", "gpu2"), 2)
    assert (variable.rank, variable.source, variable.num_nodes) == (1, "LORAJAX_NODE_RANK", 3)


@pytest.mark.parametrize(
    ("environment", "source"),
    [
        (LORAJAX | LWS | SLURM | OPEN_MPI | INDEXED, "LORAJAX_NODE_RANK"),
        (LWS | SLURM | OPEN_MPI | INDEXED, "LWS_WORKER_INDEX"),
        (SLURM | OPEN_MPI | INDEXED, "SLURM_NODEID"),
        (OPEN_MPI | INDEXED, "OMPI_COMM_WORLD_RANK"),
    ],
)
def test_more_deliberate_variables_go_before_others(environment, source):
    assert find_seat(None, environment).source == source


def test_nodes_of_a_slurm_step_go_before_those_of_its_job():
    assert find_seat(None, SLURM | {"SLURM_STEP_NODELIST": "gpu[7-8]"}).names == ("gpu7", "gpu8")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"LORAJAX_NODE_RANK": "one"}, "LORAJAX_NODE_RANK is 'one'; it must be a number"),
        ({"LWS_WORKER_INDEX": "1"}, "without LWS_GROUP_SIZE and LWS_LEADER_ADDRESS"),
        (SLURM | {"SLURM_LOCALID": "1"}, "--ntasks-per-node=1"),
        (SLURM | {"SLURM_JOB_NODELIST": "gpu[a-b]"}, "SLURM_JOB_NODELIST is"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "4"}, "OMPI_COMM_WORLD_RANK says node 4 of 4"),
    ],
)
def test_what_makes_no_sense_names_the_variable(environment, words):
    with pytest.raises(ValueError, match=words):
        find_seat(None, environment)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("login", ("login",)),
        ("a,b", ("a", "b")),
        ("gpu[01-03,7],login", ("gpu01", "gpu02", "gpu03", "gpu7", "login")),
        ("r[1-2]n[1-2].x", ("r1n1.x", "r1n2.x", "r2n1.x", "r2n2.x")),
        ("gpu[098-101]", ("gpu098", "gpu099", "gpu100", "gpu101")),
    ],
)
def test_node_list_is_written_out(text, names):
    assert expand_nodelist(text) == names
