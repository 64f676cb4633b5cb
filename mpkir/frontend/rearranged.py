"""What transformers makes of the tensors of a checkpoint while it loads them, without loading them.

Its tables of conversions (since 5.0) rename tensors, stack those of experts, and join what a module
holds in one. They are public to read; where they say anything that is not written down in
`runtime.arrangement`, the answer is None, and the model is loaded by transformers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedModel

from mpkir.runtime.arrangement import Arrangement, Joined, Stacked, Swapped


def arrangements_of(model: PreTrainedModel, held: Iterable[str]) -> dict[str, Arrangement] | None:
    """How each tensor of a model consists of the tensors that files hold, by their names; those
    that the model has no use for are left out. None if transformers does something else to them."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            dot_natural_key,
            rename_source_key,
        )
    except ImportError:  # a version without these tables, or with other ones
        return None
    mapping = get_model_conversion_mapping(model)
    renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
    converters = [each for each in mapping if isinstance(each, WeightConverter)]
    if len(renamings) + len(converters) != len(mapping):
        return None
    by_pattern = {pattern: each for each in converters for pattern in each.source_patterns}
    wanted: dict[str, Any] = dict(model.state_dict())
    prefix = model.base_model_prefix
    found: dict[str, Arrangement] = {}
    collected: dict[str, tuple[WeightConverter, dict[str, list[Arrangement]]]] = {}
    for original in sorted(held, key=dot_natural_key):
        name, pattern = rename_source_key(original, renamings, converters, prefix, wanted)
        if name not in wanted and original in wanted:
            name, pattern = rename_source_key(original, [], [], prefix, wanted)
        if name not in wanted:
            continue
        if pattern is None:
            found.setdefault(name, original)
            continue
        _, tensors = collected.setdefault(name, (by_pattern[pattern], {}))
        tensors.setdefault(pattern, []).append(original)
    for name, (converter, tensors) in collected.items():
        arranged = _converted(converter, tensors)
        if arranged is None:
            return None
        found[name] = arranged
    return found


def _converted(converter: Any, tensors: dict[str, list[Arrangement]]) -> Arrangement | None:
    """What a converter makes of the tensors that match each of its patterns; None if it makes
    several, or does what has no name here."""
    from transformers.core_model_loading import Concatenate, MergeModulelist, Transpose

    if len(converter.target_patterns) != 1:
        return None
    for operation in converter.operations:
        # Subclasses may do more.
        if type(operation) is MergeModulelist:
            tensors = {
                pattern: [Stacked(tuple(parts), operation.dim)]
                for pattern, parts in tensors.items()
            }
        elif type(operation) is Concatenate:
            # In the order of the patterns, not in that of the files.
            parts = [each for p in converter.source_patterns for each in tensors.get(p, ())]
            tensors = {converter.target_patterns[0]: [Joined(tuple(parts), operation.dim)]}
        elif type(operation) is Transpose and not operation.check_dims and len(tensors) == 1:
            ((pattern, parts),) = tensors.items()
            tensors = {pattern: [Swapped(parts[0], (operation.dim0, operation.dim1))]}
        else:
            return None
    ((arranged, *others),) = tensors.values() if len(tensors) == 1 else ([None, None],)
    return None if others else arranged
