"""Solvers against dense NumPy formulas."""

import dataclasses
import subprocess
import sys
import textwrap
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.kernels import (
    RBF,
    Cholesky,
    ComputationAware,
    ConjugateGradients,
    Inducing,
    NotEnoughMemory,
    NotPositiveDefinite,
    Nystrom,
    PivotedCholesky,
    SubsetOfData,
)
from ntkuq.kernels.solvers import Exact, System, extended, memory, system as systems
from ntkuq.kernels.solvers.exact import _factor
from ntkuq.kernels.solvers.gradients import log_determinant_of, whiten
from ntkuq.kernels.solvers.preconditioners import pivoted_cholesky


RNG = np.random.default_rng(4)
KEY = jax.random.key(0)
N, D, C, NEW = 40, 2, 2, 6
#: Shared between tests, and so are their programs.
GRADIENTS = ConjugateGradients(1e-12)
AWARE = ComputationAware(steps=18, preconditioner=PivotedCholesky(5))


@dataclasses.dataclass
class Dense:
    """The exact posterior by plain NumPy."""

    system: System
    y: np.ndarray
    new: np.ndarray

    def __post_init__(self):
        gram, params, x = (
            self.system.covariance.gram,
            self.system.params,
            self.system.x,
        )
        self.k = np.asarray(gram(params, x))
        self.a = self.k + np.diag(np.asarray(self.system.noise))
        self.cross = np.asarray(gram(params, jnp.asarray(self.new), x))
        self.prior = np.asarray(gram(params, jnp.asarray(self.new)))

    def given(self, inverse):
        """Mean and covariance with a matrix in the place of A^-1."""
        covariance = self.prior - self.cross @ inverse @ self.cross.T
        return self.cross @ inverse @ self.y, covariance

    @property
    def exact(self):
        return self.given(np.linalg.inv(self.a))

    @property
    def evidence(self):
        whole = len(self.y) * np.log(2 * np.pi) + np.linalg.slogdet(self.a)[1]
        fit = np.sum(self.y * np.linalg.solve(self.a, self.y))
        return -0.5 * (self.y.shape[1] * whole + fit)


def problem(size=N, noise=None):
    """A system with a noise of its own for each datum; call it inside enable_x64."""
    x = jnp.asarray(RNG.standard_normal((size, D)))
    covariance = RBF(ard=False).covariance(None, x, 1.3)
    noise = RNG.uniform(0.01, 0.1, size) if noise is None else np.full(size, noise)
    params = covariance.initial()
    found = System(covariance, params, x, jnp.asarray(noise))
    y = np.stack([np.sin(2 * x[:, 0]), np.asarray(x[:, 1]) ** 2], axis=1)
    y = y + 0.1 * RNG.standard_normal((size, C))
    return found, Dense(found, y, RNG.standard_normal((NEW, D)))


@eqx.filter_jit
def _predicted(solution, system, new):
    return *solution.marginals(system, new), *solution.joint(system, new)


def predicted(found, system, new):
    """Mean and covariance, the marginals compared with them on the way."""
    rows = found.solution.rows
    if rows is not None:
        system = System(
            system.covariance, system.params, system.x[rows], system.noise[rows]
        )
    mean, variance, same, covariance = _predicted(
        found.solution, system, jnp.asarray(new)
    )
    np.testing.assert_allclose(mean, same, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(variance, np.diagonal(covariance), rtol=1e-7)
    np.testing.assert_allclose(covariance, covariance.T, rtol=0, atol=1e-13)
    return np.asarray(mean), np.asarray(covariance)


@pytest.mark.parametrize(
    ("solver", "rtol"),
    [
        (Cholesky(), 1e-10),
        (GRADIENTS, 1e-9),
        (ConjugateGradients(1e-12, preconditioner=None), 1e-9),
        (AWARE, 1e-9),
        (Inducing(points=N), 1e-8),
        (SubsetOfData(points=N), 1e-10),
    ],
    ids=["exact", "gradients", "plain gradients", "aware", "inducing", "subset"],
)
def test_equal_to_the_dense_formula_where_they_are_exact(solver, rtol):
    with jax.enable_x64(True):
        system, dense = problem()
        found = solver.condition(system, jnp.asarray(dense.y), key=KEY)
        mean, covariance = predicted(found, system, dense.new)
        expected, expected_covariance = dense.exact
        np.testing.assert_allclose(mean, expected, rtol=rtol, atol=rtol)
        np.testing.assert_allclose(
            covariance, expected_covariance, rtol=1e3 * rtol, atol=rtol
        )
        # exact, but for the random log-determinant
        se = found.diagnostics.get("evidence standard error", 0.0)
        high = found.diagnostics.get("evidence too high by at most", 0.0)
        assert high < 1e-8
        assert abs(found.log_evidence - dense.evidence) <= 4 * se + 1e-7


def test_subset_is_exact_on_its_rows():
    with jax.enable_x64(True):
        system, dense = problem()
        found = SubsetOfData(15).condition(system, jnp.asarray(dense.y), key=KEY)
        rows = np.asarray(found.solution.rows)
        assert len(set(rows.tolist())) == found.diagnostics["points"] == 15
        part = Dense(
            System(
                system.covariance, system.params, system.x[rows], system.noise[rows]
            ),
            dense.y[rows],
            dense.new,
        )
        mean, covariance = predicted(found, system, dense.new)
        np.testing.assert_allclose(mean, part.exact[0], rtol=1e-9)
        np.testing.assert_allclose(covariance, part.exact[1], rtol=1e-7, atol=1e-10)
        assert found.log_evidence == pytest.approx(part.evidence, rel=1e-10)


def test_inducing_points_by_the_dense_formula():
    with jax.enable_x64(True):
        system, dense = problem()
        found = Inducing(points=9).condition(system, jnp.asarray(dense.y), key=KEY)
        rows = np.asarray(found.solution.rows)
        kuf, kuu = dense.k[rows], dense.k[np.ix_(rows, rows)]
        precision = 1.0 / np.asarray(system.noise)
        # the optimal q(u) = N(m, S): Titsias 2009, eq. 10
        sigma = np.linalg.inv(kuu + (kuf * precision) @ kuf.T)
        mean_u = kuu @ sigma @ (kuf * precision) @ dense.y
        back = dense.cross[:, rows] @ np.linalg.inv(kuu)
        expected = back @ mean_u
        covariance = (
            dense.prior
            - back @ kuu @ back.T
            + dense.cross[:, rows] @ sigma @ dense.cross[:, rows].T
        )
        mean, found_covariance = predicted(found, system, dense.new)
        np.testing.assert_allclose(mean, expected, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(found_covariance, covariance, rtol=1e-7, atol=1e-9)
        q = kuf.T @ np.linalg.solve(kuu, kuf)
        near = q + np.diag(np.asarray(system.noise))
        bound = -0.5 * (
            C * (N * np.log(2 * np.pi) + np.linalg.slogdet(near)[1])
            + np.sum(dense.y * np.linalg.solve(near, dense.y))
            + C * np.sum(precision * (np.diagonal(dense.k) - np.diagonal(q)))
        )
        assert found.log_evidence == pytest.approx(bound, rel=1e-9)
        assert found.log_evidence < dense.evidence


def test_stopping_early_is_never_overconfident():
    """Variances of few steps, of both solvers, are above the exact ones."""
    with jax.enable_x64(True):
        system, dense = problem()
        y = jnp.asarray(dense.y)
        _, exact = dense.exact
        solvers = [
            ComputationAware(steps=steps, preconditioner=PivotedCholesky(5))
            for steps in (2, 8)
        ]
        solvers += [ConjugateGradients(max_steps=3, preconditioner=None)]
        size = []
        for solver in solvers:
            found = solver.condition(system, y, key=KEY)
            _, covariance = predicted(found, system, dense.new)
            above = covariance - exact
            assert (np.diagonal(above) > 0).all()
            size.append(np.trace(above))
            if isinstance(solver, ComputationAware):
                # not only the variances: no combination of new values is too sure
                assert np.linalg.eigvalsh(above)[0] > -1e-12
        assert size[1] < 0.7 * size[0]
        assert found.diagnostics["solver converged"] is False
        # what the evidence may be too high by covers what it is
        aware = solvers[0].condition(system, y, key=KEY)
        gap = 0.5 * (
            np.sum(dense.y * np.linalg.solve(dense.a, dense.y))
            - np.sum(dense.y * np.asarray(aware.solution.alpha))
        )
        assert 0.0 < gap <= aware.diagnostics["evidence too high by at most"]


def test_computation_aware_is_the_posterior_given_its_actions():
    with jax.enable_x64(True):
        system, dense = problem()
        y = dense.y[:, :1]
        for preconditioner in (Nystrom(3), None):
            solver = ComputationAware(steps=5, preconditioner=preconditioner)
            found = solver.condition(system, jnp.asarray(y), key=KEY)
            half = np.asarray(found.solution.half)
            # C = S (S^T A S)^-1 S^T, whatever basis S of the actions
            basis, _ = np.linalg.qr(half)
            expected = basis @ np.linalg.solve(basis.T @ dense.a @ basis, basis.T)
            np.testing.assert_allclose(half @ half.T, expected, rtol=1e-9, atol=1e-9)
            assert half.shape[1] == 5 + (3 if preconditioner else 0)
        plain = ConjugateGradients(1e-14, max_steps=5, preconditioner=None)
        iterate = plain.condition(system, jnp.asarray(y), key=KEY).solution.alpha
        # without a preconditioner its mean is the fifth iterate of conjugate gradients
        np.testing.assert_allclose(found.solution.alpha, iterate, rtol=1e-9)
        assert found.diagnostics["actions"] == 5


def test_computation_aware_converges_as_conjugate_gradients_do():
    """Its first columns are the preconditioner's: the others must know of them."""
    with jax.enable_x64(True):
        system, dense = problem(noise=0.01)
        y = dense.y[:, :1]
        exact = np.linalg.solve(dense.a, y)
        chosen = {"preconditioner": PivotedCholesky(10)}
        errors = []
        for solver in (
            ComputationAware(steps=10, **chosen),
            ConjugateGradients(1e-14, max_steps=10, **chosen),
        ):
            found = solver.condition(system, jnp.asarray(y), key=KEY)
            off = exact - np.asarray(found.solution.alpha)
            errors.append((off.T @ dense.a @ off).item())
        # with B in the place of the deflated operator it is 3 000 times the other
        assert errors[0] < 2 * errors[1] < 1e-4


def test_preconditioners_approximate_and_whiten():
    with jax.enable_x64(True):
        system, dense = problem()
        factor, pivots = eqx.filter_jit(pivoted_cholesky)(system, 8)
        factor = np.asarray(factor)
        left, chosen = dense.k.copy(), []
        for _ in range(8):
            at = int(np.argmax(np.diagonal(left)))
            chosen.append(at)
            left = left - np.outer(left[at], left[at]) / left[at, at]
        assert pivots.tolist() == chosen
        np.testing.assert_allclose(dense.k - factor @ factor.T, left, atol=1e-12)
        best = np.linalg.eigvalsh(dense.k)[:-8].sum()
        factor_of = eqx.filter_jit(lambda p, s: p.factor(s, key=KEY))
        near = np.asarray(factor_of(Nystrom(8), system))
        # in expectation below (1 + r / (p - 1)) of the best of rank r, p more columns
        assert best <= np.trace(dense.k - near @ near.T) < 4 * best
        whole = np.asarray(factor_of(Nystrom(N), system))
        np.testing.assert_allclose(whole @ whole.T, dense.k, atol=1e-7)
        white = whiten(PivotedCholesky(8), system, KEY)
        p = factor @ factor.T + np.diag(np.asarray(system.noise))
        w, turned, value = (
            np.asarray(a)
            for a in eqx.filter_jit(
                lambda w, v: (w(v), w.transposed(v), w.log_determinant)
            )(white, jnp.eye(N))
        )
        np.testing.assert_allclose(w @ p @ w.T, np.eye(N), atol=1e-11)
        np.testing.assert_allclose(turned, w.T, atol=1e-12)
        assert value == pytest.approx(np.linalg.slogdet(p)[1], rel=1e-12)


def test_pivoted_cholesky_stops_at_the_rank():
    with jax.enable_x64(True):
        x = jnp.asarray(RNG.standard_normal((4, D)))
        system, _ = problem()
        few = dataclasses.replace(system, x=jnp.concatenate([x, x, x]))
        factor, _ = eqx.filter_jit(pivoted_cholesky)(few, 9)
        factor = np.asarray(factor)
        assert (factor[:, 4:] == 0).all()
        gram = few.covariance.gram(few.params, few.x)
        np.testing.assert_allclose(factor @ factor.T, gram, atol=1e-12)


def test_log_determinant_has_the_standard_error_it_says():
    """Over keys the errors, in standard errors, have about unit variance."""
    with jax.enable_x64(True):
        system, dense = problem()
        exact = np.linalg.slogdet(dense.a)[1]
        white = whiten(PivotedCholesky(5), system, KEY)
        errors = []
        for key in jax.random.split(KEY, 60):
            value, se = log_determinant_of(system, white, 16, N, key)
            errors.append((float(value) - exact) / float(se))
        # chi square with 60 degrees of freedom, each a t with 15: within 0.5 and 2
        # but for 1 in 10^4
        assert 0.5 < np.mean(np.square(errors)) < 2.0


def test_the_matrix_need_not_be_held(monkeypatch):
    with jax.enable_x64(True):
        system, dense = problem()
        monkeypatch.setattr(systems, "BLOCK_BYTES", 8 * N * 7)  # blocks of 7 rows
        v = jnp.asarray(RNG.standard_normal((N, 3)))
        np.testing.assert_allclose(system.times(v), dense.a @ v, rtol=1e-12)
        held = system.held()
        assert held.matrix is not None
        np.testing.assert_allclose(held.times(v), dense.a @ v, rtol=1e-12)
        for at in (0, N - 1):
            column = jnp.asarray(at)
            np.testing.assert_allclose(system.column(column), dense.k[at], rtol=1e-12)
        monkeypatch.setattr(systems, "available_bytes", lambda: 31.0 * N**2)
        assert system.held().matrix is None
        y = jnp.asarray(dense.y)
        for solver in (GRADIENTS, AWARE):
            found = solver.condition(system, y, key=KEY)
            mean, _ = predicted(found, system, dense.new)
            np.testing.assert_allclose(mean, dense.exact[0], rtol=1e-8)


def test_extending_the_factor_equals_factoring_all():
    with jax.enable_x64(True):
        system, dense = problem()
        y = jnp.asarray(dense.y)
        first = System(
            system.covariance, system.params, system.x[:25], system.noise[:25]
        )
        old = Cholesky().condition(first, y[:25], key=KEY)
        more = extended(old.solution, system, y)
        anew = Cholesky().condition(system, y, key=KEY)
        for one, two in zip(
            jax.tree.leaves(more.solution), jax.tree.leaves(anew.solution), strict=True
        ):
            np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-12)
        assert more.log_evidence == pytest.approx(anew.log_evidence, rel=1e-12)


def test_extending_climbs_the_ladder_where_it_must():
    """The same inputs again, without noise: the Schur complement is rounding."""
    with jax.enable_x64(True):
        system, dense = problem(noise=0.0)
        x = jnp.concatenate([system.x[:8], system.x[:8]])
        twice = System(system.covariance, system.params, x, jnp.zeros(16))
        first = System(system.covariance, system.params, x[:8], jnp.zeros(8))
        y = jnp.asarray(dense.y[:8])
        old = Cholesky().condition(first, y, key=KEY)
        assert old.diagnostics["jitter"] == 0.0
        more = extended(old.solution, twice, jnp.concatenate([y, y]))
        assert isinstance(more.solution, Exact)
        assert more.diagnostics["jitter"] >= 0.0
        assert np.isfinite(more.log_evidence)
        bad = dataclasses.replace(twice, noise=jnp.full(16, -1.0))
        with pytest.raises(NotPositiveDefinite, match="GP covariance"):
            Cholesky().condition(bad, jnp.concatenate([y, y]), key=KEY)


def test_the_factorization_holds_three_matrices():
    """Kernel, factor, and one more while they are made: what `work` says."""
    with jax.enable_x64(True):
        system, dense = problem(size=600)
        lowered = _factor.lower(system, jnp.asarray(dense.y), jnp.asarray(0.0))
        used = lowered.compile().compiled.memory_analysis()
        peak = used.temp_size_in_bytes + used.output_size_in_bytes
        assert peak < 1.1 * Cholesky().work(600, C).bytes


def test_what_does_not_fit_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 1e6)
    with pytest.raises(NotEnoughMemory, match="Cholesky: 1,000 rows and 2 output"):
        Cholesky().need_memory(1000, 2)
    with pytest.raises(MemoryError, match=r"ConjugateGradients\(\) or Computation"):
        Cholesky().need_memory(1000, 2)
    Cholesky().need_memory(100, 2)
    SubsetOfData(100).need_memory(10**9, 2)
    with pytest.raises(NotEnoughMemory, match="fewer steps"):
        ComputationAware(steps=10**4).need_memory(10**5, 1)
    monkeypatch.undo()
    assert memory.available_bytes() > 1e6


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"Cholesky: expected tune_points >= 1, got"):
        Cholesky(tune_points=0)
    with pytest.raises(ValueError, match="points >= 1"):
        SubsetOfData(0)
    with pytest.raises(ValueError, match="points >= 1"):
        Inducing(0)
    with pytest.raises(ValueError, match="0 < tolerance < 1"):
        ConjugateGradients(tolerance=0.0)
    with pytest.raises(ValueError, match="probes >= 2, got 1"):
        ComputationAware(probes=1)
    with pytest.raises(ValueError, match="rank >= 1"):
        PivotedCholesky(0)
    with pytest.raises(ValueError, match="rank >= 1"):
        Nystrom(0)


def test_constant_targets_and_few_data():
    """Nothing to explain; one datum, fewer than there are outputs: exact."""
    with jax.enable_x64(True):
        system, dense = problem()
        one = System(system.covariance, system.params, system.x[:1], system.noise[:1])
        y = jnp.asarray(dense.y[:1])
        single = Dense(one, np.asarray(y), dense.new)
        for solver in (GRADIENTS, AWARE, Inducing(points=N)):
            found = solver.condition(system, jnp.zeros((N, C)), key=KEY)
            mean, covariance = predicted(found, system, dense.new)
            assert (mean == 0).all()
            assert (np.diagonal(covariance) > 0).all()
            alone = solver.condition(one, y, key=KEY)
            mean, covariance = predicted(alone, one, dense.new)
            np.testing.assert_allclose(mean, single.exact[0], rtol=1e-8)
            np.testing.assert_allclose(covariance, single.exact[1], atol=1e-9)


def test_rows_are_spread_over_devices():
    """Two devices give what one gives: the matrix, products, and an exact solution."""
    script = """
        import jax, jax.numpy as jnp, numpy as np
        from ntkuq.kernels import RBF, Cholesky, ConjugateGradients
        from ntkuq.kernels.solvers import System, system as systems
        assert jax.local_device_count() == 2
        rng = np.random.default_rng(0)
        jax.config.update("jax_enable_x64", True)
        x = jnp.asarray(rng.standard_normal((61, 2)))
        y = jnp.asarray(rng.standard_normal((61, 1)))
        covariance = RBF(ard=False).covariance(None, x, 1.0)
        made = System(covariance, covariance.initial(), x, jnp.full(61, 0.1))
        def all_of():
            gram = jax.jit(lambda s: s.gram())(made)
            product = jax.jit(lambda s, v: s.times(v))(made, y)
            exact = Cholesky().condition(made, y, key=jax.random.key(0))
            new = x[:3] + 0.1
            jitted = jax.jit(lambda s, t: s.marginals(t, new))
            return gram, product, exact.log_evidence, *jitted(exact.solution, made)
        one = all_of()
        systems.SPREAD_ROWS = 2
        jax.clear_caches()
        two = all_of()
        assert len(two[0].devices()) == 2, two[0].devices()
        for a, b in zip(one, two):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
        print("same")
    """
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        cwd=root,
        timeout=120,
        check=False,
        env={
            "PATH": "",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        },
    )
    assert done.stdout.strip() == "same", done.stderr[-3000:]
