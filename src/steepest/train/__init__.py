# SPDX-License-Identifier: Apache-2.0
"""Data, the training loop, checkpoints, runs and their reports."""
