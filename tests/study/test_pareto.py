"""A front by hand."""

from espalier.study.pareto import dominates, front


def test_one_dominates_another_that_is_nowhere_lower() -> None:
    assert dominates([1, 2], [1, 3])
    assert not dominates([1, 2], [1, 2])
    assert not dominates([1, 3], [2, 2])


def test_the_front_is_what_nothing_dominates() -> None:
    #  cost 5 |  a
    #       4 |        d
    #       3 |     b
    #       2 |           e
    #       1 |        c        f
    #  loss      1  2  3  4     6
    points = {"a": (1, 5), "b": (2, 3), "c": (3, 1), "d": (3, 4), "e": (4, 2), "f": (6, 1)}
    assert front(points) == ["a", "b", "c"]


def test_equal_points_are_on_it_once() -> None:
    assert front({1: (1.0, 2.0), 2: (1.0, 2.0), 3: (0.5, 3.0)}) == [3, 1]


def test_of_one_objective_it_is_the_lowest() -> None:
    assert front({"a": [2.0], "b": [1.0]}) == ["b"]
