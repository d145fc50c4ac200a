"""A flipped bit in what verify wrote is told by verify, before any work."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import save_ticket, verify_ticket
from analysis.certificate_claims import read_certificate
from analysis.errors import TicketError
from analysis.manifest import digest
from analysis.ticket import Ticket

V1 = Path(__file__).parent / "tickets" / "v1"
NAMES = ["certificate.json", "certificate.md", "counterexamples.safetensors"]


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory, ticket: Ticket) -> Path:
    folder = save_ticket(ticket, tmp_path_factory.mktemp("verified") / "ticket")
    verify_ticket(folder, radii=[0.2], examples=20, methods=["ibp"])
    return folder


def test_what_verify_wrote_is_read_back(verified: Path) -> None:
    assert sorted({path.name for path in verified.iterdir()} & set(NAMES)) == NAMES
    document = json.loads((verified / "certificate.json").read_text())
    certificate = read_certificate(verified)
    assert certificate is not None
    assert json.loads(certificate.to_json()) == document
    assert document["digest"] == digest(document)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_flipped_bit_is_told_by_name(verified: Path, name: str, data: st.DataObject) -> None:
    path, before = verified / name, read_certificate(verified)
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    flipped = content[place] ^ 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
    try:
        after = read_certificate(verified)
    except TicketError as error:
        assert name in str(error)
    else:  # 1e-05 and 1E-05 are one number: the certificate says the same as before
        assert name == "certificate.json" and after == before
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_file_that_is_gone_is_told_before_any_work(
    verified: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(verified, tmp_path / "t"))
    (folder / name).unlink()
    monkeypatch.setattr("analysis.certificate.Judge", None)
    with pytest.raises(
        TicketError, match=rf"{name} is not what was written with certificate\.json"
    ):
        verify_ticket(folder)


def test_a_certificate_from_before_there_were_seals_is_read() -> None:
    certificate = read_certificate(V1)
    assert certificate is not None and certificate.text == ""
    assert certificate.results[0].num_verified == 10


def test_a_seal_cannot_be_left_out(verified: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(verified, tmp_path / "t"))
    path = folder / "certificate.json"
    document = json.loads(path.read_text())
    del document["digest"]
    path.write_text(json.dumps(document))
    with pytest.raises(TicketError, match="its digest is None"):
        read_certificate(folder)
