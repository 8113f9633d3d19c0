import pytest

from fedvpa.serving.catalogue import Catalogue, Served
from fedvpa.serving.errors import ApiError
from fedvpa.serving.keys import Caller
from policy_fixtures import make_policy
from server_fixtures import DictProfiles, EchoEngine

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("kind", ["soft_prefix", "gated_lora", "additive"])
def test_every_conditioning_has_its_groups_prototypes_and_profiles(base_folder, kind):
    policy = make_policy(base_folder, kind)
    policy.preferences, policy.prototypes = {"brief": [1.0, 2.0, 3.0]}, [[0.0] * 3, [4.0] * 3]
    store = DictProfiles(3, {"ana": []})
    catalogue = Catalogue("m", {"": Served(policy, EchoEngine())}, "fedeb", store)
    assert list(catalogue.visible(Caller())) == ["m", "m:brief", "m:0", "m:1", "m:ana"]
    assert list(catalogue.visible(Caller("ana"))) == ["m:ana"]
    found = {
        name: catalogue.find(f"m:{name}", Caller()).z.tolist()
        for name in ("brief", "group:brief", "1", "prototype:1", "0.25", "ana")
    }
    assert found == {
        "brief": [1, 2, 3],
        "group:brief": [1, 2, 3],
        "1": [4] * 3,
        "prototype:1": [4] * 3,
        "0.25": [1] * 3,
        "ana": store.z("ana"),
    }


def test_one_policy_for_each_group_is_asked_by_the_group_alone(base_folder):
    policy = make_policy(base_folder, None)
    served = {group: Served(policy, EchoEngine()) for group in ("long", "brief")}
    catalogue = Catalogue("m", served, "oracle")
    assert list(catalogue.visible(Caller())) == ["m", "m:long", "m:brief"]
    assert catalogue.find("m:brief", Caller()).served is served["brief"]
    assert catalogue.find("m", Caller(), {"profile": "long"}).served is served["long"]
    base = catalogue.find("m", Caller())
    assert (base.base, base.z) == (True, None)
    with pytest.raises(ApiError, match=r"There is no model 'm:ana'\. Known: m, m:long, m:brief") as caught:
        catalogue.find("m:ana", Caller())
    assert caught.value.status == 404
    with pytest.raises(ApiError, match="one policy for each group"):
        catalogue.check_explicit("m", Caller(), "z")


def test_names_that_the_policy_has_are_no_names_of_profiles(base_folder):
    policy = make_policy(base_folder)
    policy.preferences = {"brief": [0.0] * 3}
    catalogue = Catalogue("m", {"": Served(policy, EchoEngine())}, "fedeb", DictProfiles(3))
    taken = ("brief", "base", "0", "0.5", "-1", "nan", "group:x", "user:x", "prototype:9")
    assert all(map(catalogue.is_public, taken))
    assert not any(map(catalogue.is_public, ("ana", "briefs", "b0")))
    for name in ("nan", "inf", "-1", "2.5"):
        with pytest.raises(ApiError, match="There is no model"):
            catalogue.find(f"m:{name}", Caller())


def test_a_long_list_is_cut(base_folder):
    store = DictProfiles(3, {f"user-{number:02}": [] for number in range(30)})
    catalogue = Catalogue("m", {"": Served(make_policy(base_folder), EchoEngine())}, "fedeb", store)
    with pytest.raises(ApiError, match="user-18 and 11 more"):
        catalogue.find("m:nobody", Caller())
