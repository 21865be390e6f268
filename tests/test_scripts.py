"""The launch scripts, down to the command line of deepspeed's runner; what it does with it is in test_launch.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
HOSTS = "# ours\n\nnode-a slots=8\nnode-b slots=8\n"


@pytest.fixture
def launch(tmp_path):
    """Runs a script in a folder, with a Python that prints its arguments, a line each, and then the host file."""
    commands = {
        "python": 'printf "%s\\n" "$@"; [ -z "${HOSTFILE:-}" ] || cat "$HOSTFILE"',
        "scontrol": '[ "$*" = "show hostnames node-[a-b]" ] && printf "node-a\\nnode-b\\n"',
        # srun: the task of each machine, here
        "srun": 'while [[ $1 == --* ]]; do shift; done; for id in 0 1; do SLURM_NODEID=$id "$@"; done',
    }
    for name, body in commands.items():
        write_command(tmp_path / "bin" / name, body)

    def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        given = {name: value for name, value in os.environ.items() if name not in ("HOSTFILE", "PROCESSES")}
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", str(SCRIPTS / script), *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**given, "PATH": path, "VIRTUAL_ENV": "set", **environment},
        )

    return run


def write_command(file: Path, body: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/usr/bin/env bash\n{body}\n")
    file.chmod(0o755)


@pytest.mark.parametrize("script", sorted(SCRIPTS.rglob("*.sh")), ids=lambda path: str(path.relative_to(SCRIPTS)))
def test_script_is_bash_and_may_be_run(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_one_machine(launch):
    done = launch("lora.sh", "r.yaml", "data=[a.json]", PROCESSES="3", MASTER_PORT="20001", DEEPSPEED="zero.json")
    runner = ["-m", "deepspeed.launcher.runner", "--num_gpus", "3", "--no_local_rank", "--quiet"]
    runner += ["--master_port", "20001"]
    command = ["--module", "mllm", "finetune", "r.yaml", "stage=lora", "trainer.deepspeed=zero.json", "data=[a.json]"]
    assert done.stdout.splitlines() == runner + command


def test_help_takes_no_launcher(launch):
    assert launch("lora.sh", "--help").stdout.splitlines() == ["-m", "mllm", "finetune", "--help"]


def test_several_machines_through_ssh(launch, tmp_path):
    (tmp_path / "hosts").write_text(HOSTS)
    done = launch("launch.sh", "finetune", "lora={rank: 8}", "data=[a.json,b.json]", HOSTFILE="hosts", PROCESSES="3")
    words = done.stdout.splitlines()
    assert words[2:5] == ["--hostfile", "hosts", "--force_multi"]
    assert "--num_gpus" not in words  # which would count more than the file
    assert words[13:16] == ["finetune", "lora={rank: 8}", "'data=[a.json,b.json]'"]  # for the shells of the machines


def test_the_shells_of_other_machines_read_every_argument_as_it_was_given(launch, tmp_path):
    """Through DeepSpeed's own runner; pdsh replaces %n, and sshd hands the line to a shell."""
    (tmp_path / "hosts").write_text(HOSTS)
    write_command(tmp_path / "bin/python", f'exec {sys.executable} "$@"')
    write_command(tmp_path / "bin/ssh", "echo 10.0.0.1")
    line = r"""while [ "$1" != mllm ]; do shift; done; shift
line=$(printf '%s.' "$*" | sed 's/%%/\x01/g; s/%n/0/g; s/\x01/%/g')
exec sh -c "printf '<%s>' ${line%.}" """
    write_command(tmp_path / "bin/pdsh", line)
    given = ["finetune", "output=my run$(touch X)", "a `touch X` $HOME", "x=$(touch${IFS}X)", "a;touch X>X", "it's", ""]
    given += [r"""a "b" \"c\ '""", "data=[a.json,b.json]", "50%n", "a %n b", "a\nb", "a \n", "*", "--resume"]
    done = launch("launch.sh", *given, HOSTFILE="hosts")
    assert done.stdout.endswith("".join(f"<{argument}>" for argument in given)), done.stdout + done.stderr
    assert not (tmp_path / "X").exists()


def test_a_folder_that_those_shells_would_misread_is_refused(launch, tmp_path):
    (tmp_path / "my runs").mkdir()
    script = f"cd 'my runs' && bash {SCRIPTS / 'launch.sh'} train r.yaml"
    write_command(tmp_path / "there.sh", script)
    (tmp_path / "hosts").write_text(HOSTS)
    done = launch(str(tmp_path / "there.sh"), HOSTFILE=str(tmp_path / "hosts"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: HOSTFILE: " in done.stderr


def test_one_call_on_each_machine(launch, tmp_path):
    (tmp_path / "hosts").write_text(HOSTS)
    here = {"HOSTFILE": "hosts", "NODE_RANK": "1", "MASTER_ADDR": "node-a"}
    words = launch("launch.sh", "finetune", "data=[a.json]", **here, MASTER_PORT="20001").stdout.splitlines()
    assert words[2:9] == ["--hostfile", "hosts", "--no_ssh", "--node_rank", "1", "--master_addr", "node-a"]
    assert "data=[a.json]" in words  # no shell comes between
    done = launch("launch.sh", "finetune", **here)
    assert done.returncode != 0
    assert "MASTER_PORT: is a port that is free there" in done.stderr


@pytest.mark.parametrize("content", [None, "", "# node-a slots=8\n", "node-a\n"])
def test_a_host_file_without_hosts_is_refused(content, launch, tmp_path):
    if content is not None:
        (tmp_path / "hosts").write_text(content)
    done = launch("launch.sh", "finetune", "r.yaml", HOSTFILE="hosts")
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: HOSTFILE=hosts: no such file, or no line NAME slots=PROCESSES in it" in done.stderr


def test_slurm_starts_the_launcher_on_each_machine(launch, tmp_path):
    job = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": "node-[a-b]"}
    script = str(SCRIPTS / "full.sh")
    done = launch("slurm.sh", script, "r.yaml", "output=my out", **job, SLURM_GPUS_ON_NODE="4")
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    for rank in range(2):
        one = words[rank * (len(words) // 2) : (rank + 1) * (len(words) // 2)]
        assert one[4:9] == ["--no_ssh", "--node_rank", str(rank), "--master_addr", "node-a"]
        assert one[one.index("--master_port") + 1] == "20041"
        assert one[-3:] == ["output=my out", "node-a slots=4", "node-b slots=4"]
    assert not list(tmp_path.glob("hostfile*"))
    assert launch("slurm.sh", "nothing.sh", **job).returncode == 2
    assert "sbatch --nodes N" in launch("slurm.sh", script, "r.yaml").stderr  # not in a job
