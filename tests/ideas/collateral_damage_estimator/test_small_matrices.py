import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from mixcd.ideas.collateral_damage_estimator.small_matrices import SmallMatrices


def threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_numpy_computes_with_one_thread_inside_and_as_before_outside():
    np.eye(2) @ np.eye(2)
    with threadpool_limits(2, user_api="blas"):
        with SmallMatrices():
            assert threads() == {1}
        assert threads() == {2}
