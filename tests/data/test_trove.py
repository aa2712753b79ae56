"""Documents that leave a datatrove pipeline, as a corpus; only where datatrove is installed."""

from pathlib import Path

import pytest

from espalier.data.prepare import prepare
from espalier.data.request import Request

pytest.importorskip("datatrove", reason="datatrove is not installed: pip install datatrove")


def test_tasks_of_a_pipeline_make_corpora_that_are_put_together(tmp_path: Path) -> None:
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.filters import LambdaFilter

    from espalier.data.trove import Tokenise

    documents = [Document(text=f"text number {i}", id=str(i)) for i in range(40)]
    LocalPipelineExecutor(
        pipeline=[
            documents,
            LambdaFilter(lambda document: not document.text.endswith("7")),
            Tokenise(tmp_path / "web", "byte", val_fraction=0.2),
        ],
        tasks=1,
        logging_dir=str(tmp_path / "logs"),
    ).run()
    (place,) = (tmp_path / "web").iterdir()
    assert place.name == "00000-of-00001"
    other = prepare(Request(str(place), tmp_path / "both", more=(str(place),)))
    kept = [document.text for document in documents if not document.text.endswith("7")]
    found = other.meta
    assert sum(found["characters"].values()) == 2 * sum(map(len, kept))
    assert sum(found["documents"][split] for split in ("train", "val")) == 2 * len(kept)
