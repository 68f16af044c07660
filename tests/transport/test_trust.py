"""Which servers a client believes: chains, names, dates and pins, over real handshakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from certificates import Authority, authority
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from stage import Play, Stage
from talk import Talk

from quicmsg.errors import CertificateError, ConfigurationError
from quicmsg.transport.quic import Trust


def test_certificates_that_are_not_trusted(play: Play, tmp_path: Path) -> None:
    """Unknown authority, wrong name, expired, another key than the pinned one: each its own words."""
    other_ca = tmp_path / "other.pem"
    other_ca.write_bytes(authority(b"B" * 32, "other authority").pem)
    root = authority()

    async def scene(stage: Stage) -> None:
        port = await stage.serve()

        async def refused(words: str, **options: Any) -> str:
            ours = Talk()
            with pytest.raises(CertificateError, match=words) as caught:
                await stage.dial(port, ours, **options)
            assert (ours.channel_binding, ours.ended) == (b"", [])
            return caught.value.fingerprint

        unknown = "from an authority that is not in"
        assert await refused(unknown, trust=Trust(ca_file=other_ca)) == root.fingerprint
        assert await refused("nobody vouches", trust=Trust()) == root.fingerprint
        assert await refused("not for 'example.org' but for localhost", server_name="example.org") == ""
        assert await refused("is not the pinned one", trust=Trust(fingerprint="00" * 32)) == ""
        pinned = Trust(fingerprint=root.fingerprint)
        assert await refused("not for 'example.org'", server_name="example.org", trust=pinned) == ""
        await refused("cannot be read", trust=Trust(ca_file=tmp_path / "nothing.pem"))
        for days, words in (((-90, -50), "expired on 2025-11-12"), ((3000, 4000), "valid only from")):
            stage.listener.set_certificate(*root.issue(days=days))
            await refused(words)
            await refused(words, trust=pinned)
        # Signed by somebody else, with the pinned authority shown beside it.
        forged, key = authority(b"B" * 32).issue()
        leaf = forged.split(b"-----END CERTIFICATE-----\n")[0] + b"-----END CERTIFICATE-----\n"
        stage.listener.set_certificate(leaf + root.pem, key)
        await refused("not issued by the pinned authority", trust=pinned)
        # Signed by a pinned server certificate, which is no authority.
        server = x509.load_pem_x509_certificates(root.issue()[0])[0]
        impostor = Authority(Ed25519PrivateKey.from_private_bytes(b"L" * 32), server)
        stage.listener.set_certificate(*impostor.issue(seed=b"N" * 32))
        await refused("not issued by", trust=Trust(fingerprint=impostor.fingerprint))

    play(scene)


def test_pins_and_renewed_certificates_are_accepted(play: Play) -> None:
    """The authority's fingerprint outlives the leaf; a leaf's own fingerprint works too."""

    async def scene(stage: Stage) -> None:
        port, root = await stage.serve(), authority()
        await stage.dial(port, Talk(), trust=Trust(fingerprint=root.fingerprint))
        stage.listener.set_certificate(*root.issue(seed=b"N" * 32))
        await stage.dial(port, Talk(), trust=Trust(fingerprint=root.fingerprint.upper()))
        chain, key = root.issue()
        leaf = chain.split(b"-----END CERTIFICATE-----\n")[0] + b"-----END CERTIFICATE-----\n"
        stage.listener.set_certificate(leaf, key)
        with pytest.raises(CertificateError) as caught:
            await stage.dial(port, Talk(), trust=Trust())
        assert caught.value.fingerprint != root.fingerprint
        await stage.dial(port, Talk(), trust=Trust(fingerprint=caught.value.fingerprint))
        with pytest.raises(ConfigurationError, match="does not belong"):
            stage.listener.set_certificate(chain, root.issue(seed=b"N" * 32)[1])

    play(scene)
