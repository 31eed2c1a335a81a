"""Application files in a ConfigMap: made by the first deployment, one key for each spike."""

import pytest

from spike_pipelines.adapters.kubernetes.shelf import ConfigMapShelf
from spike_pipelines.domain.errors import AlreadyExists, InvalidSpec, ObjectMissing


@pytest.fixture
def shelf(site):
    if site.fake is not None:
        site.fake.objects.setdefault(f"/api/v1/namespaces/{site.namespace}/configmaps", {})
    return ConfigMapShelf(site.api, f"{site.namespace}/spike-applications")


def kept(site):
    path = f"/api/v1/namespaces/{site.namespace}/configmaps/spike-applications"
    return site.api.get(path)["data"]


def test_the_first_file_makes_the_shelf(site, shelf):
    shelf.put("crt-payout-v1-1.0", "name: x\n")
    assert kept(site) == {"crt-payout-v1-1.0.yaml": "name: x\n"}


def test_a_file_replaces_its_own_and_leaves_the_others(site, shelf):
    for name, text in (("a", "1"), ("b", "1"), ("a", "2"), ("a", "2")):
        shelf.put(name, text)
    assert kept(site) == {"a.yaml": "2", "b.yaml": "1"}


def test_what_is_on_the_shelf_is_told_and_taken_away_alone(shelf):
    assert shelf.get("a") is None
    shelf.remove("a")
    for name in ("a", "b"):
        shelf.put(name, name)
    shelf.remove("a")
    shelf.remove("a")
    assert (shelf.get("a"), shelf.get("b")) == (None, "b")


def test_two_first_deployments_at_once_keep_both_files(site, shelf, monkeypatch):
    """The other one makes it between our look and our making."""
    patch, missing = site.api.patch, iter([True])

    def first_is_too_early(self, path, body):
        if next(missing, False):
            shelf_of_other.put("b", "1")
            raise ObjectMissing(path)
        return patch(path, body)

    shelf_of_other = ConfigMapShelf(site.api, shelf.place)
    monkeypatch.setattr(type(site.api), "patch", first_is_too_early)
    shelf.put("a", "1")
    assert kept(site) == {"a.yaml": "1", "b.yaml": "1"}


def test_what_fits_into_no_config_map_is_refused(shelf):
    with pytest.raises(InvalidSpec, match="fits into no ConfigMap"):
        shelf.put("a", "x" * 1_000_000)


def test_an_existing_shelf_is_never_made_again(site, shelf):
    shelf.put("a", "1")
    with pytest.raises(AlreadyExists):
        site.api.post(
            f"/api/v1/namespaces/{site.namespace}/configmaps", {"metadata": {"name": "spike-applications"}}
        )
