# SPDX-License-Identifier: Apache-2.0
"""Softmax, losses, activations, normalization and fused updates at memory speed on CPUs."""
