from dgtoy.course.bench import machine_speed


def test_the_speed_of_a_machine_is_seconds_and_grows_with_the_product():
    """Eight times the operations take longer, on any machine; the least of several timings is not the one disturbed."""
    assert 0 < machine_speed(n=128) < machine_speed(n=1024)
