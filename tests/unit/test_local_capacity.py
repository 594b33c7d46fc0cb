"""Ceilings of the local cloud's compute environments, and hosts where they are named."""

from __future__ import annotations

from pyanamo_core.local.capacity import Capacity
from pyanamo_core.local.compute import Environment, Queue

ENVIRONMENT = Environment("arn:ce/one", "one", 4.0, True)
QUEUE = Queue("arn:queue", "queue", 1, True, ("arn:ce/one",))
KNOWN = {ENVIRONMENT.arn: ENVIRONMENT}


def test_no_more_is_taken_than_the_ceiling_leaves_and_what_is_given_back_can_be_taken_again():
    # Given an environment of four vCPUs
    capacity = Capacity()
    taken = [capacity.take(QUEUE, KNOWN, 2), capacity.take(QUEUE, KNOWN, 2)]
    # When all is taken
    assert capacity.take(QUEUE, KNOWN, 1) is None
    # Then one that ends makes room
    assert taken[0] is not None
    capacity.give_back(taken[0])
    assert capacity.take(QUEUE, KNOWN, 2) is not None


def test_without_named_hosts_each_attempt_has_an_instance_of_its_own():
    capacity = Capacity()
    places = [capacity.take(QUEUE, KNOWN, 1) for _ in range(3)]
    assert len({place.host.instance for place in places if place}) == 3


def test_attempts_share_named_hosts_and_the_first_with_room_is_taken():
    # Given two hosts of two vCPUs, something being wrong with the first
    capacity = Capacity()
    capacity.set_hosts(ENVIRONMENT.arn, [{"vcpus": 2, "environment": {"TMPDIR": "/full"}}, {"vcpus": 2}])
    # When four jobs start
    places = [capacity.take(QUEUE, KNOWN, 1) for _ in range(4)]
    assert all(places)
    found = [place.host for place in places if place]
    # Then two share the first, and no fifth fits
    assert found[0] is found[1]
    assert found[2] is found[3]
    assert found[0].environment == {"TMPDIR": "/full"}
    assert capacity.take(QUEUE, KNOWN, 1) is None


def test_a_terminated_host_is_replaced_by_a_sound_one():
    capacity = Capacity()
    capacity.set_hosts(ENVIRONMENT.arn, [{"vcpus": 1, "environment": {"TMPDIR": "/full"}}])
    place = capacity.take(QUEUE, KNOWN, 1)
    assert place is not None
    # When the only host goes, with the attempt on it
    capacity.replace(place.host)
    capacity.give_back(place)
    # Then the next attempt finds another one without its fault
    after = capacity.take(QUEUE, KNOWN, 1)
    assert after is not None
    assert after.host.instance != place.host.instance
    assert after.host.environment == {}


def test_a_job_above_every_ceiling_is_too_big_and_a_ceiling_of_zero_is_a_queue_switched_off():
    capacity = Capacity()
    assert capacity.is_too_big(QUEUE, KNOWN, 8)
    assert not capacity.is_too_big(QUEUE, KNOWN, 4)
    capacity.set_ceiling(ENVIRONMENT.arn, 0)
    assert not capacity.is_too_big(QUEUE, KNOWN, 8)
    assert capacity.take(QUEUE, KNOWN, 1) is None


def test_an_invalid_environment_starts_nothing_until_it_is_mended_and_is_told_with_its_reason():
    # Given an environment that is INVALID, and whose ceiling was changed, of which moto knows nothing
    capacity = Capacity()
    capacity.set_ceiling(ENVIRONMENT.arn, 2)
    capacity.set_invalid("one", "CLIENT_ERROR - no role")
    moto = {"computeEnvironmentName": "one", "status": "VALID", "computeResources": {"maxvCpus": 4, "minvCpus": 0}}
    # Then nothing starts there, and it is told
    assert capacity.take(QUEUE, KNOWN, 1) is None
    (told,) = capacity.corrected([moto])
    assert (told["status"], told["statusReason"]) == ("INVALID", "CLIENT_ERROR - no role")
    assert told["computeResources"] == {"maxvCpus": 2, "minvCpus": 0}
    # When it is mended
    capacity.set_invalid(ENVIRONMENT.arn, "")
    assert capacity.take(QUEUE, KNOWN, 1) is not None
    assert capacity.corrected([moto])[0]["status"] == "VALID"
