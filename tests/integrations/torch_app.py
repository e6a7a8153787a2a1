"""A training that knows nothing of femtomp but one line: ranks, loaders, epochs, kills.

``python torch_app.py METHOD EPOCHS RECORDS OTHERS``; prints how many workers died.
"""

import logging
import os
import signal
import sys

from femtomp.integrations import torch as femtorch

try:
    from torch.utils.data import DataLoader, Dataset
except ImportError:
    # What stands for it does with processes what PyTorch's own does.
    from tests.integrations.loader import DataLoader, Dataset

log = logging.getLogger("train")
KILL_AT = 7


class Data(Dataset):
    """Logs in the loader's workers; an item may be a worker's last."""

    def __init__(self, records, kill):
        self.records, self.kill = records, kill

    def __len__(self):
        return 8

    def __getitem__(self, item):
        from tests.integrations import noted  # noqa: F401 - spawned, too

        for number in range(self.records):
            log.info("item %d", number)
        if self.kill and item == KILL_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        return item


def main(method, epochs, records, others):
    from tests.integrations import noted  # noqa: F401

    for _ in range(3):
        femtorch.install(others=None if others == "None" else others)
    log.info("training")
    killed = 0
    for epoch in range(int(epochs)):
        data = Data(int(records), kill=epoch % 2 == 1)
        loader = DataLoader(data, num_workers=2, multiprocessing_context=method)
        try:
            for _ in loader:
                pass
        except (RuntimeError, OSError, EOFError):  # as PyTorch happens to notice it
            killed += 1
    log.error("trained")
    print("killed", killed)


if __name__ == "__main__":
    main(*sys.argv[1:])
