"""LambdaBgSchedulerHook reads these top-level settings of a config when training starts. Pure Python."""

from collections.abc import Iterator, Mapping

# Top-level name: argument of LambdaBgSchedulerHook. `use_focal_bg` is `focal` in `bg_penalty` of the head.
HOOK_SETTINGS = dict(lambda_bg='lambda_bg', lambda_bg_warmup='warmup', lambda_bg_schedule='schedule', burn_in='burn_in')
SETTINGS = (*HOOK_SETTINGS, 'use_focal_bg')


def settings_in(cfg: Mapping) -> dict:
    """The settings that a config states at its top level."""
    return {name: cfg[name] for name in SETTINGS if name in cfg}


def hook_arguments(cfg: Mapping) -> dict:
    """The arguments of LambdaBgSchedulerHook in a config."""
    return {key: value for hook in lambda_hooks(cfg) for key, value in hook.items() if key != 'type'}


def lambda_hooks(cfg: Mapping) -> Iterator[Mapping]:
    """The configs of LambdaBgSchedulerHook in a config."""
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]
    for hook in hooks:
        if isinstance(hook, Mapping):
            kind = hook.get('type')  # a name, with or without its scope, or a class
            if str(getattr(kind, '__name__', kind)).endswith('LambdaBgSchedulerHook'):
                yield hook
