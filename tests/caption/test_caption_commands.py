"""The commands as a user types them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from clip_workspace import make_workspace, rows_of
from server import GOOD, serve
from typer.testing import CliRunner

from realdpo.cli import app


def call(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["curate", *map(str, arguments)])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.stdout if code == 0 else result.output


def test_caption_edit_and_caption_again(tmp_path: Path, bikes: Path) -> None:
    ws = make_workspace(tmp_path / "w", bikes, 3)
    with serve() as server:
        model = ("--captioner", f"openai:{server.url}", "--set", "frames=2")
        plan = json.loads(call("caption", "-w", ws.root, *model, "--dry-run", "--json"))
        assert plan["plan"] == {"clips": 3, "would_ask": 3}
        assert server.bodies == []
        result = json.loads(call("caption", "-w", ws.root, *model, "--json"))
        assert (result["asked"], result["status"]) == (3, {"ok": 3})
        sheet = tmp_path / "captions.csv"
        call("caption", "-w", ws.root, "--export", sheet)
        with sheet.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["prompt"] for row in rows] == [GOOD] * 3
        rows[2]["prompt"] = 'She says "hello",\nand waves.'
        with sheet.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        assert "edits taken: 1" in call("caption", "-w", ws.root, "--import", sheet)
        assert rows_of(ws)[2]["prompt"] == 'She says "hello", and waves.'
        assert "asked about 3" in call("caption", "-w", ws.root, *model, "--recaption")
        assert [r["captioner"] for r in rows_of(ws)] == ["judge-7b", "judge-7b", "edit"]
        refused = call("caption", "-w", ws.root, "--verify", f"openai:{server.url}", code=1)
        assert "does not see its own mistakes" in refused
    kept = (ws.root / "config" / "curate-caption.toml").read_text()
    assert f'captioner = "openai:{server.url}"' in kept


def test_wrong_input_is_one_clear_line(tmp_path: Path) -> None:
    assert "no captioner 'magic'" in call("caption", "-w", tmp_path, "--captioner", "magic", code=1)
    assert "no verifier 'keywords'" in call(
        "caption", "-w", tmp_path, "--verify", "keywords", code=1
    )
    assert "curate ingest" in call("caption", "-w", tmp_path, code=1)
    assert "curate embed" in call("search", "a man", "-w", tmp_path, code=1)
