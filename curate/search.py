"""Search: the clips that look most like a description in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from realdpo import tables
from realdpo.curate import embed
from realdpo.errors import UserError
from realdpo.workspace import Workspace


def search_clips(
    ws: Workspace, text: str, *, top: int = 10, every: bool = False
) -> list[dict[str, Any]]:
    """The `top` clips by cosine between `text` and their embedding, best first.

    Dropped clips are left out unless `every` (only clips that were once embedded can be found).
    Raises UserError when nothing was embedded or the text is empty.
    """
    import numpy as np

    if not text.strip():
        raise UserError("nothing to search for", 'e.g. realdpo curate search "a person waving"')
    table, config = embed.stored_embeddings(ws)
    rows = {
        row["clip_id"]: row
        for row in tables.read_table(
            ws.clips,
            tables.CLIPS,
            ["clip_id", "keep", "path", "prompt", "title", "start_s", "end_s", "source_id"],
        ).to_pylist()
    }
    known = [
        (name in rows and (every or rows[name]["keep"] is not False))
        for name in table["clip_id"].to_pylist()
    ]
    metadata = table
    table = table.filter(known)
    if not table.num_rows:
        return []
    query = embed.load_stored(metadata, config).texts([text])[0]
    cosines = embed.embedding_matrix(table) @ query
    best = np.argsort(-cosines, kind="stable")[:top]
    names = table["clip_id"].to_pylist()
    return [
        {"rank": rank, "cosine": round(float(cosines[i]), 4), **rows[names[i]]}
        for rank, i in enumerate(best, start=1)
    ]


def list_hits(hits: Sequence[Mapping[str, Any]]) -> str:
    """Hits as lines of text."""
    if not hits:
        return "no clip to search among"
    return "\n".join(
        f"{hit['rank']:>3}  {hit['cosine']:+.3f}  {hit['path'] or hit['clip_id']}  "
        f"{hit['start_s']:.1f}-{hit['end_s']:.1f} s  {(hit['prompt'] or hit['title'] or '')[:90]}"
        for hit in hits
    )
