"""Rows of a store looked up by faiss, in inverted lists (Jegou et al. 2011, doi 10.1109/TPAMI.2010.57): rows are sorted
into lists by the nearest of some centres, and only the lists of the nearest centres are read. A few finds of a hundred
are missed; a first question reads a few hundredths of the file, where the exact search reads all of it.

Shapes: Q frames asked about, D features.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recognition.common.command_line import InputError
from recognition.common.files import written_whole
from recognition.streaming.search.store import Store

MOST_LISTS, LEAST_A_LIST = 4096, 40  # with fewer rows a list faiss says that it has too few to learn from
NUM_READ, SHARE_READ = 32, 1 / 16  # lists that are read for a question, at least and at least of all
PIECE = 1 << 16  # rows in full precision at a time


class InvertedLists:
    """An index of faiss of the rows of a store, memory-mapped.

    Args:
        path: of the store. The index lies beside it, under a name that tells of which rows it is; it is made where it
            is not there, and those of other rows are removed.
        store: the store.

    Raises InputError without the package faiss-cpu.
    """

    def __init__(self, path: Path, store: Store):
        try:
            import faiss
        except ImportError:
            raise InputError("--faiss: needs the package faiss-cpu: pip install -e '.[faiss]'") from None
        digest = hashlib.sha256(json.dumps([store.films, store.fps]).encode()).hexdigest()[:16]
        file = path.with_name(f"{path.stem}-{digest}.faiss")
        self._index: Any = _read(faiss, file, store)
        if self._index is None:
            for other in path.parent.glob(f"{path.stem}-*.faiss"):
                other.unlink(missing_ok=True)
            with written_whole(file) as part:
                faiss.write_index(_made(faiss, store), str(part))
            self._index = _read(faiss, file, store)
            assert self._index is not None  # it was just written
        self._index.nprobe = min(self._index.nlist, max(NUM_READ, round(SHARE_READ * self._index.nlist)))

    def nearest(self, asked: np.ndarray, num: int) -> Iterator[np.ndarray]:
        """The rows nearest to each frame of unit length (Q, D), at most `num`, the most similar first."""
        _, rows = self._index.search(np.ascontiguousarray(asked, np.float32), num)
        for of_one in rows:
            yield of_one[of_one >= 0]


def _read(faiss: Any, file: Path, store: Store) -> Any:
    """The index of a store; None if it is not there or is none."""
    if not file.is_file():
        return None
    try:
        index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP)
    except RuntimeError:  # so faiss says whatever is wrong
        return None
    is_ours = isinstance(index, faiss.IndexIVF) and (index.ntotal, index.d) == tuple(store.features.shape)
    return index if is_ours else None


def _made(faiss: Any, store: Store) -> Any:
    num_rows, width = store.features.shape
    num_lists = max(1, min(MOST_LISTS, num_rows // LEAST_A_LIST, round(num_rows**0.5)))
    centres, kind = faiss.IndexFlatIP(width), faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexIVFScalarQuantizer(centres, width, num_lists, kind, faiss.METRIC_INNER_PRODUCT)
    every = max(1, num_rows // (2 * LEAST_A_LIST * num_lists))
    index.train(store.features[::every].float().numpy())
    for rows in store.features.split(PIECE):
        index.add(rows.float().numpy())
    return index
