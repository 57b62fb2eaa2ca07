"""What it takes to use a zoo on the Hub: requests, bytes and seconds, from an empty cache.

A zoo of the sources of the builtin zoo, repeated with signatures of their own, is put on the Hub
server of the tests and pulled over loopback, which has next to no latency: requests and bytes are
what carries over to a real network, seconds are those of the computer. The supernets of repeated
sources are the same files, which does not matter, as one is fetched.

Run: ``python benchmarks/hub.py [--sources 20 1000]``
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
os.environ |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": tempfile.mkdtemp()}

from common import add_output, write_results
from hub_server import HubServer

from supernetnas import DatasetSignature, SupernetTransferClassifier, Zoo
from supernetnas.distance.dataset_vectors import fit_vector_space
from supernetnas.selection.ranking import FEW_SOURCES, SHORTLIST, rank_sources
from supernetnas.storage.formats import dump_safetensors
from supernetnas.zoo.bundles import make_bundles
from supernetnas.zoo.entries import (
    BASIS,
    SIGNATURE,
    VECTORS,
    FileRecord,
    encode_vector,
)
from supernetnas.zoo.index import Index


def publish(server: HubServer, repo_id: str, n_sources: int) -> Index:
    """Put a zoo of so many single sources on the server."""
    builtin = Zoo.open("builtin")
    singles, files, sources, signatures = builtin.singles(), {}, {}, {}
    own = {source.name: source.signature() for source in singles}
    space = fit_vector_space(list(own.values()))
    vectors = {name: encode_vector(space.vector(signature)) for name, signature in own.items()}
    for number in range(n_sources):
        source = singles[number % len(singles)]
        name, entry = f"{source.name}-{number:04d}", source.entry
        files |= {f"{name}/{file}": source.path(file).read_bytes() for file in entry.files}
        signature = own[source.name]
        rows = signature.rows.copy()
        rows[0] = number % 100  # another dataset, as far as hashes can tell
        signatures[name] = dump_safetensors(
            replace(signature, rows=rows).to_tensors(),
            {**signature.metadata(), "copy": str(number)},
        )
        files[f"{name}/{SIGNATURE}"] = signatures[name]
        record = FileRecord.of(signatures[name])
        sources[name] = replace(
            entry,
            folder=name,
            files={**entry.files, SIGNATURE: record},
            vector=vectors[source.name],
        )
    basis = builtin.store.index.basis
    space_file = dump_safetensors(space.to_tensors())
    record = FileRecord.of(space_file)
    index = Index(builtin.embedder_id, dict(sorted(sources.items())), basis, vectors=record)
    bundles, contents = make_bundles(index, index, signatures.__getitem__)
    index = replace(index, bundles=bundles)
    files |= {**contents, "index.json": index.dump(), VECTORS: space_file}
    files[BASIS] = (builtin.folder / BASIS).read_bytes()
    server.put(repo_id, files)
    return index


class Meter:
    """Counts what happens on the server, and the time."""

    def __init__(self, server: HubServer, zoo: str) -> None:
        self.server, self.zoo = server, zoo
        self.rows: list[dict] = []
        self.restart()

    def restart(self) -> None:
        self.server.reset()
        self.start = time.perf_counter()

    def note(self, step: str) -> None:
        row = {
            "zoo": self.zoo,
            "step": step,
            "seconds": round(time.perf_counter() - self.start, 2),
            "requests": len(self.server.requests),
            "MB": round(self.server.sent / 1e6, 2),
        }
        print(json.dumps(row), flush=True)
        self.rows.append(row)
        self.restart()


def measure(server: HubServer, n_sources: int, target: DatasetSignature) -> list[dict]:
    repo_id = f"org/zoo-{n_sources}"
    index = publish(server, repo_id, n_sources)
    with tempfile.TemporaryDirectory() as cache:
        meter = Meter(server, f"{n_sources} sources")
        zoo = Zoo.from_pretrained(repo_id, endpoint=server.url, cache_dir=cache)
        print(list(zoo.values())[-1])
        meter.note("open and list")
        shortlist = SHORTLIST if len(zoo.singles()) > FEW_SOURCES else None
        ranking = rank_sources(target, zoo, shortlist=shortlist)
        meter.note(f"rank, as strategy 'ot' does: {len(ranking)} distances")
        best = next(iter(ranking))
        zoo[best].state_dict()
        meter.note("load the supernet of the nearest")
        zoo.download(weights=False)
        meter.note(f"fetch all other signatures ({len(index.bundles)} bundles)")
        for source in zoo.singles():
            source.signature()
        meter.note("read and check all signatures")
        again = Zoo.from_pretrained(
            repo_id, revision=server.head(repo_id), endpoint=server.url, cache_dir=cache
        )
        again.download(weights=False)
        again[best].state_dict()
        for source in again.singles():
            source.signature()
        meter.note("all of it again, pinned, from the cache")
        Zoo.from_pretrained(repo_id, endpoint=server.url, cache_dir=cache)
        meter.note("open again, not pinned")
    return meter.rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", type=int, nargs="+", default=[20, 1000])
    add_output(parser, __file__)
    args = parser.parse_args()
    SupernetTransferClassifier()  # what is imported late is no part of the times
    target = Zoo.open("builtin")["cifar10"].signature()
    with HubServer() as server:
        rows = [row for n in args.sources for row in measure(server, n, target)]
    write_results(args.out, rows=rows)


if __name__ == "__main__":
    main()
