"""Run by `test_sharded.py` in two processes, of which the second does not come to an exchange."""

from __future__ import annotations

import datetime
import time

import torch
import torch.distributed as dist

from realdpo import cli
from realdpo.cli.processes import leave_process, quiet_peer


def main() -> None:
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=2))
    dist.all_reduce(torch.ones(1))
    if dist.get_rank():
        time.sleep(6)
        leave_process(0)
    with cli.guard_command(), quiet_peer():
        dist.all_reduce(torch.ones(1))


if __name__ == "__main__":
    main()
