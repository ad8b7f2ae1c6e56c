"""What may be handled next: in parallel, and one after the other within a key. A pure state machine."""

from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


class Lanes(Generic[Key, Item]):
    """Items by key. The first item of a key is in one of three states: ready, taken, or resting until ``again``."""

    __slots__ = ("_items", "_ready", "count")

    def __init__(self) -> None:
        """Hold nothing."""
        self._items: dict[Key, deque[Item]] = {}
        self._ready: deque[Key] = deque()
        self.count = 0

    def put(self, key: Key, item: Item) -> None:
        """Add an item behind those of its key."""
        self.count += 1
        lane = self._items.get(key)
        if lane is None:
            self._items[key] = deque((item,))
            self._ready.append(key)
        else:
            lane.append(item)

    def __contains__(self, key: object) -> bool:
        return key in self._items

    @property
    def ready(self) -> int:
        """How many items could be taken now."""
        return len(self._ready)

    def any_ready(self, is_meant: Callable[[Item], bool]) -> bool:
        """Say whether one of the items that could be taken now is meant."""
        return any(is_meant(self._items[key][0]) for key in self._ready)

    def take(self) -> tuple[Key, Item] | None:
        """Return the next item whose key is free, and keep its key busy until ``finish`` or ``again``."""
        if not self._ready:
            return None
        key = self._ready.popleft()
        return key, self._items[key][0]

    def finish(self, key: Key) -> None:
        """The item that was taken is done: the next one of its key is ready."""
        lane = self._items[key]
        lane.popleft()
        self.count -= 1
        if lane:
            self._ready.append(key)
        else:
            del self._items[key]

    def again(self, key: Key) -> None:
        """The item that was taken is to be taken again, before the others of its key."""
        self._ready.append(key)

    def drop(self, is_dropped: Callable[[Item], bool], is_taken: Callable[[Key], bool]) -> list[Item]:
        """Remove items and return them, resting ones too; not those that are being handled (``is_taken``)."""
        dropped: list[Item] = []
        ready = set(self._ready)
        for key in [key for key, lane in self._items.items() if any(map(is_dropped, lane))]:
            lane = self._items[key]
            first = lane[0]
            kept = deque(item for item in lane if not is_dropped(item) or (item is first and is_taken(key)))
            dropped += [item for item in lane if is_dropped(item) and not (item is first and is_taken(key))]
            if not kept:
                del self._items[key]
                continue
            self._items[key] = kept
            if kept[0] is not first and key not in ready:  # the one that rested is gone
                self._ready.append(key)
        self.count -= len(dropped)
        self._ready = deque(key for key in self._ready if key in self._items)
        return dropped
