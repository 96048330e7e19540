"""Held-out splits: stratified by class, with groups kept whole."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


def holdout(
    labels: Numbers, count: int, seed: int, groups: Numbers | None = None
) -> tuple[Numbers, Numbers]:
    """Splits positions into (rest, ``count`` held out), stratified by class.

    The images of each class are ranked in an order drawn from ``seed``; the lowest ranks, as
    fractions of the class, are held out, so every class keeps an image in the rest. ``groups`` are
    kept whole: a group is ranked in the class of its first image, by the middle of its images.
    Groups are taken until there are ``count`` images, skipping any that holds all that is left of a
    class or would exceed ``count`` by more than a tenth; if all would, the smallest is taken.
    """
    # RandomState, not Generator: numpy promises that its stream never changes.
    order = np.random.RandomState(seed).permutation(len(labels))
    if groups is not None:
        ranked = np.sort(groups)  # np.unique takes 0.9 s for a million
        if (ranked[1:] == ranked[:-1]).any():
            return _grouped(labels, count, order, groups)
    place = np.empty(len(labels))
    # All classes at once: scanning all labels for each takes 6 s for ImageNet's 1,000.
    by_class = order[np.argsort(labels[order], kind="stable")]
    _, counts = np.unique(labels, return_counts=True)
    first, each = np.repeat([counts.cumsum() - counts, counts], counts, axis=1)
    place[by_class] = (np.arange(len(labels)) - first + 0.5) / each
    ranked = order[np.argsort(place[order], kind="stable")]
    return np.sort(ranked[count:]), np.sort(ranked[:count])


def _grouped(
    labels: Numbers, count: int, order: Numbers, groups: Numbers
) -> tuple[Numbers, Numbers]:
    names, first, group, sizes = np.unique(
        groups[order], return_index=True, return_inverse=True, return_counts=True
    )
    label = labels[order][first]  # a group belongs to the class of its first image
    turn = np.argsort(first)  # the groups in the drawn order
    by_class = turn[np.argsort(label[turn], kind="stable")]
    taken = sizes[by_class]
    ends = taken.cumsum()
    _, counts = np.unique(label, return_counts=True)
    last = counts.cumsum() - 1
    before = ends[last - counts + 1] - taken[last - counts + 1]
    before, whole = np.repeat([before, ends[last] - before], counts, axis=1)
    # The middle of the group's images: a group that is most of its class stays in the rest.
    place = np.empty(len(names))
    place[by_class] = (ends - before - taken / 2) / whole
    by_group = labels[order][np.argsort(group, kind="stable")]
    ends = sizes.cumsum()
    left = np.bincount(labels)  # of each class
    held = np.zeros(len(names), bool)

    def hold(each: int) -> bool:
        """Holds a group out, unless a class would have no image left."""
        inside = Counter(by_group[ends[each] - sizes[each] : ends[each]].tolist())
        held[each] = all(images < left[label] for label, images in inside.items())
        for label, images in inside.items() if held[each] else ():
            left[label] -= images
        return bool(held[each])

    total = 0
    for each in np.lexsort((first, place)):
        if total >= count:
            break
        if total + sizes[each] <= count * 1.1 and hold(each):
            total += int(sizes[each])
    if not total:
        any(map(hold, np.lexsort((first, sizes))))  # one, the smallest
    chosen = held[group]
    return np.sort(order[~chosen]), np.sort(order[chosen])


def together(*kinds: Numbers) -> Numbers:
    """Merges groupings: a number for each image, equal for images connected through groups of any
    of them, such as copies of an image and a user's groups."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(kinds[0])
    ends = []
    offset = count
    for kind in kinds:
        _, numbers = np.unique(kind, return_inverse=True)
        ends.append(numbers + offset)
        offset += int(numbers.max(initial=-1)) + 1
    images = np.tile(np.arange(count), len(kinds))
    edges = coo_matrix((np.ones(len(images), bool), (images, np.concatenate(ends))), (offset,) * 2)
    component: Numbers = connected_components(edges, directed=False)[1].astype(np.int64)
    return component[:count]
