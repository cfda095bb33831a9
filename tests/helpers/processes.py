"""Two processes, connected by gloo."""

import multiprocessing

import torch


def in_two_processes(target, folder) -> list:
    """Run ``target(rank)`` in both processes and return the results. ``folder`` must be empty."""
    fork = multiprocessing.get_context('fork')
    queue = fork.Queue()
    children = [fork.Process(target=_call, args=(target, rank, str(folder / 'store'), queue)) for rank in (0, 1)]
    for child in children:
        child.start()
    answers = dict(queue.get(timeout=120) for _ in children)
    for child in children:
        child.join()
    return [answers[0], answers[1]]


def _call(target, rank, store, queue):
    torch.distributed.init_process_group('gloo', store=torch.distributed.FileStore(store, 2), rank=rank, world_size=2)
    try:
        queue.put((rank, target(rank)))
    finally:
        torch.distributed.destroy_process_group()
