"""The component that lets in people by OIDC: what it brings is what its settings need."""

import copy
import json
from pathlib import Path

from k8s import validate
from k8s.checks import network, settings
from k8s.kustomization import assemble
from k8s.workloads import of_kind
from libs.access.oidc.mapping import read_mapping

MANIFESTS = assemble(validate.TARGETS["base with people by OIDC"], validate.ROOT)


def test_services_that_people_call_reach_the_issuer_and_no_other_does() -> None:
    assert not list(network.servers_as_needed(MANIFESTS))
    without = [one for one in MANIFESTS if one["metadata"]["name"] != "to-issuer"]
    blocked = " ".join(network.servers_as_needed(without))
    for service in ("catalog", "coordinator", "restore"):
        assert f"backcast/{service}: its settings name a server at port 443" in blocked
    manifests = copy.deepcopy(MANIFESTS)
    (policy,) = (one for one in manifests if one["metadata"]["name"] == "to-issuer")
    policy["spec"]["podSelector"] = {}
    assert "chunker: egress to port 443 is allowed" in " ".join(
        network.servers_as_needed(manifests)
    )


def test_the_mapping_of_the_example_can_be_read(tmp_path: Path) -> None:
    (config,) = (
        one for one in of_kind(MANIFESTS, "ConfigMap") if one["metadata"]["name"] == "oidc"
    )
    file = tmp_path / "mapping.json"
    file.write_text(config["data"]["mapping.json"])
    first = read_mapping(file).find([json.loads(file.read_text())[0]["value"]])
    assert first
    assert first.roles == ("reader",)


def test_an_issuer_needs_its_audience_and_its_mapping() -> None:
    manifests = copy.deepcopy(MANIFESTS)
    (config,) = (
        one for one in of_kind(manifests, "ConfigMap") if one["metadata"]["name"] == "restore"
    )
    del config["data"]["BACKCAST_RESTORE_OIDC_AUDIENCE"]
    assert any("belong together" in text for text in settings.load_into_settings(manifests))
