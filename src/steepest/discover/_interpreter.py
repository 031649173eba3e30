# SPDX-License-Identifier: Apache-2.0
"""Compiled evaluation of a program for many sets of constants at many points, with derivatives, and their fit.

The fit is Levenberg and Marquardt's, from every row of a batch of starts: programs have at most a dozen constants and a
few dozen points, so one iteration takes microseconds, which no optimizer that is called from Python can match.
"""

import math

import numba
import numpy as np


@numba.njit(cache=True, error_model="numpy", nogil=True)
def forward(code, constants, x, values):
    """Fill `values` (registers, points) with all registers of the program."""
    values[0] = x
    count = len(constants)
    for k in range(count):
        values[1 + k, :] = constants[k]
    for i in range(len(code)):
        op = code[i, 0]
        a, b, c, out = values[code[i, 1]], values[code[i, 2]], values[code[i, 3]], values[1 + count + i]
        for p in range(len(x)):
            if op == 0:
                out[p] = a[p] + b[p]
            elif op == 1:
                out[p] = a[p] - b[p]
            elif op == 2:
                out[p] = a[p] * b[p]
            elif op == 3:
                out[p] = a[p] / b[p]
            elif op == 4:
                out[p] = a[p] * b[p] + c[p]
            elif op == 5:
                out[p] = math.sqrt(a[p])
            elif op == 6:
                out[p] = a[p] * a[p]
            elif op == 7:
                out[p] = 2.0 * a[p]
            elif op == 8:
                out[p] = 4.0 * a[p]
            elif op == 9:
                out[p] = 0.5 * a[p]
            else:
                out[p] = 0.25 * a[p]


@numba.njit(cache=True, error_model="numpy", nogil=True)
def backward(code, values, weight, adjoint, jacobian):
    """Fill `jacobian` (constants, points) with weight times the derivatives of the result, by reverse mode."""
    registers, points = values.shape
    count = registers - 1 - len(code)
    adjoint[:] = 0.0
    adjoint[registers - 1] = weight
    for i in range(len(code) - 1, -1, -1):
        op = code[i, 0]
        ia, ib, ic = code[i, 1], code[i, 2], code[i, 3]
        seed, out = adjoint[1 + count + i], values[1 + count + i]
        for p in range(points):
            s = seed[p]
            if op == 0:
                adjoint[ia, p] += s
                adjoint[ib, p] += s
            elif op == 1:
                adjoint[ia, p] += s
                adjoint[ib, p] -= s
            elif op == 2:
                adjoint[ia, p] += s * values[ib, p]
                adjoint[ib, p] += s * values[ia, p]
            elif op == 3:
                q = s / values[ib, p]
                adjoint[ia, p] += q
                adjoint[ib, p] -= q * out[p]
            elif op == 4:
                adjoint[ia, p] += s * values[ib, p]
                adjoint[ib, p] += s * values[ia, p]
                adjoint[ic, p] += s
            elif op == 5:
                adjoint[ia, p] += 0.5 * s / out[p]
            elif op == 6:
                adjoint[ia, p] += 2.0 * s * values[ia, p]
            elif op == 7:
                adjoint[ia, p] += 2.0 * s
            elif op == 8:
                adjoint[ia, p] += 4.0 * s
            elif op == 9:
                adjoint[ia, p] += 0.5 * s
            else:
                adjoint[ia, p] += 0.25 * s
    jacobian[:] = adjoint[1 : 1 + count]


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _residual(code, constants, x, target, weight, values, out):
    forward(code, constants, x, values)
    total = 0.0
    last = values[len(values) - 1]
    for p in range(len(x)):
        out[p] = (last[p] - target[p]) * weight[p]
        total += out[p] * out[p]
    return total


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _solve(jacobian, residual, damping, step, gram):
    """Solve (J J' + damping diag(J J')) step = -J r in scaled columns by Cholesky; False if it breaks down."""
    n, points = jacobian.shape
    scale = np.empty(n)
    for i in range(n):
        total = 0.0
        for p in range(points):
            total += jacobian[i, p] * jacobian[i, p]
        if not (total > 0.0 and total < 1e300):
            return False
        scale[i] = 1.0 / math.sqrt(total)
    for i in range(n):
        total = 0.0
        for p in range(points):
            total -= jacobian[i, p] * residual[p]
        step[i] = total * scale[i]
        for j in range(i + 1):
            total = 0.0
            for p in range(points):
                total += jacobian[i, p] * jacobian[j, p]
            gram[i, j] = total * scale[i] * scale[j]
        gram[i, i] += damping
    for i in range(n):
        for j in range(i + 1):
            total = gram[i, j]
            for k in range(j):
                total -= gram[i, k] * gram[j, k]
            if i == j:
                if not total > 0.0:
                    return False
                gram[i, i] = math.sqrt(total)
            else:
                gram[i, j] = total / gram[j, j]
    for i in range(n):
        for k in range(i):
            step[i] -= gram[i, k] * step[k]
        step[i] /= gram[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            step[i] -= gram[k, i] * step[k]
        step[i] /= gram[i, i]
    for i in range(n):
        step[i] *= scale[i]
    return True


@numba.njit(cache=True, error_model="numpy", nogil=True)
def fit(code, starts, x, target, weight, iterations):
    """Fit each row of `starts` in place; return the root mean square of each row's weighted errors (inf if none)."""
    rows, n = starts.shape
    points = len(x)
    registers = 1 + n + len(code)
    values, adjoint = np.empty((registers, points)), np.empty((registers, points))
    jacobian, gram = np.empty((n, points)), np.empty((n, n))
    now, trial, step = np.empty(points), np.empty(points), np.empty(n)
    errors = np.full(rows, np.inf)
    for row in range(rows):
        c = starts[row]
        best = _residual(code, c, x, target, weight, values, now)
        if not best < 1e300:
            continue
        damping, fresh, stalls = 1e-2, True, 0
        for it in range(iterations):
            if fresh:
                backward(code, values, weight, adjoint, jacobian)
            if not _solve(jacobian, now, damping, step, gram):
                damping *= 100.0
                fresh = False
                if damping > 1e8:
                    break
                continue
            candidate = c + step
            total = _residual(code, candidate, x, target, weight, values, trial)
            if total < best:
                stalls = stalls + 1 if total > 0.98 * best else 0
                best, fresh = total, True
                c[:] = candidate
                now[:] = trial
                damping = max(damping * 0.1, 1e-14)
                if stalls > 6:
                    break
            else:
                fresh = False
                damping = max(damping, 1e-12) * 8.0
                if damping > 1e8:
                    break
            # A start that is still useless when half of the iterations are gone rarely recovers.
            if it == iterations // 2 and row > 0 and best > 1e6 * (errors[:row].min() ** 2 * points):
                break
        errors[row] = math.sqrt(best / points)
    return errors
