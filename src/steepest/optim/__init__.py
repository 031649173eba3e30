# SPDX-License-Identifier: Apache-2.0
"""Optimizers: rules (one method, one file), the engine, parameter groups."""
