"""What stands for `torch.utils.data` where PyTorch is not installed.

Its DataLoader does with processes what PyTorch's does: daemons of a context's, new ones
in each epoch, who know their number, get items from a queue of their own and end when
that says so; a dead one is a RuntimeError in the epoch's loop.
"""

import multiprocessing
import queue
import sys
from types import SimpleNamespace

_worker_info = None
# Under its own name, by which it is asked who a worker is.
sys.modules.setdefault("torch.utils.data", sys.modules[__name__])


def get_worker_info():
    return _worker_info


class Dataset:
    pass


def _work(dataset, items, results, number):
    global _worker_info  # noqa: PLW0603 - as the original has it
    _worker_info = SimpleNamespace(id=number)
    while (item := items.get()) is not None:
        results.put(dataset[item])


class DataLoader:
    def __init__(self, dataset, num_workers, multiprocessing_context):
        self._data, self._number = dataset, num_workers
        self._context = multiprocessing.get_context(multiprocessing_context)

    def __iter__(self):
        results = self._context.Queue()
        workers = []
        for number in range(self._number):
            items = self._context.Queue()
            worker = self._context.Process(
                target=_work, args=(self._data, items, results, number), daemon=True
            )
            worker.start()
            workers.append((worker, items))
        for item in range(len(self._data)):
            workers[item % self._number][1].put(item)
        try:
            yield from self._results(results, [worker for worker, _ in workers])
        finally:
            for worker, items in workers:
                items.put(None)
                # One that was killed may have had the lock of the others' queue.
                worker.join(5)
                worker.terminate()
                worker.join()

    def _results(self, results, workers):
        left = len(self._data)
        while left:
            try:
                yield results.get(timeout=0.2)
                left -= 1
            except queue.Empty:
                if any(worker.exitcode for worker in workers):
                    raise RuntimeError("a worker was killed") from None
