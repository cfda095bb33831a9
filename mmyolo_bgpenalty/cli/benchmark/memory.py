"""The memory that a task takes."""

import json
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from mmyolo_bgpenalty.cli.benchmark.timing import Task


def peak_bytes(task: Task, device: str) -> int:
    """Bytes of tensors that are alive at the same time in a task, at most, above those from before it.

    On a CPU they are counted from the allocations that torch's profiler records. This number is the same in every run.
    The memory of the process is not: it depends on when the C library gives memory back.
    """
    task()  # fills caches and the optimizer's state
    if device == 'cuda':
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        task()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        task()
    with tempfile.TemporaryDirectory() as folder:
        recorded.export_chrome_trace(f'{folder}/trace.json')
        events = json.loads(Path(folder, 'trace.json').read_text(encoding='utf-8'))['traceEvents']
    live = peak = 0
    for event in sorted((event for event in events if event['name'] == '[memory]'), key=lambda event: event['ts']):
        live += event['args']['Bytes']
        peak = max(peak, live)
    return peak
