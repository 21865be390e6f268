"""The published code (github.com/showlab/sparseformer), from a user's own checkout, as a model to time ours by."""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

from torch import nn

from data.errors import InputError, translated
from encoder import SparseFormerConfig

PACKAGE = "official_sparseformer"  # an installed `sparseformer` stays apart
OPERATIONS = {"sample": "SAMPLING_M", "pe": "PE_INJECT", "attn": "ATTN", "mlp": "MLP", "roi": "ROI_ADJ"}


class Official:
    """The modules of a checkout, imported from there and from nowhere else."""

    def __init__(self, directory: Path):
        """
        Args:
            directory: a checkout, or the folder of its package.

        Raises:
            InputError: it is none, or cannot be imported.
        """
        self.directory = directory
        folders = [directory / "sparseformer" / "sparseformer", directory / "sparseformer", directory]
        package = next((folder for folder in folders if (folder / "modelling.py").is_file()), None)
        if package is None:
            raise InputError(
                f"--official {directory}: holds no sparseformer/modelling.py; give a checkout of "
                "github.com/showlab/sparseformer"
            )
        for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:  # of another checkout
            del sys.modules[name]
        spec = ModuleSpec(PACKAGE, None, is_package=True)
        spec.submodule_search_locations = [str(package)]
        sys.modules[PACKAGE] = module_from_spec(spec)
        with translated(f"--official {directory}"):
            self._modelling = importlib.import_module(f"{PACKAGE}.modelling")
            self._utils = importlib.import_module(f"{PACKAGE}.utils")

    def build(self, config: SparseFormerConfig) -> nn.Module:
        """Builds its model (B, 3, H, W) -> (B, E) of a published configuration, with random weights, on the CPU.

        Raises:
            InputError: its constructor takes other arguments.
        """
        arguments = official_arguments(config)
        with translated(f"--official {self.directory}", "give a checkout of its release v2.0.0-refactor or later"):
            arguments["ops_list"] = [[self._modelling.OP[name] for name in ops] for ops in arguments["ops_list"]]
            arguments["compatible_config"] = self._utils.CompatibleAttrDict(**arguments["compatible_config"])
            return self._modelling.SparseFormer(**arguments)


def official_arguments(config: SparseFormerConfig) -> dict[str, Any]:
    """Says a published configuration in the arguments of the published `SparseFormer`, operations by name."""
    v1 = config.attention_head_dim is None
    arguments = {
        "conv_dim": config.early_channels,
        "num_latent_tokens": config.num_latent_tokens,
        "num_sampling_points": config.num_sampling_points,
        "same_token_embedding": config.shared_embedding,
        "width_configs": [unit["width"] for unit in config.units],
        "repeats": [unit["repeats"] for unit in config.units],
        "head_op": "cls" if config.class_token else "avg",
        "ops_list": [[OPERATIONS[name] for name in unit["ops"]] for unit in config.units],
        "compatible_config": {
            "type_num_attn_heads": 1 if v1 else 2,
            "type_op_adjust": 1 if config.roi_head == "linear" else 2,
            "mixing_bias": config.mixing_bias,
            "transition_ln": config.transition_norm,
            "ln_eps": config.layer_norm_eps,
            "use_stage_embedding": config.repeat_embedding,
            "grid_sample_config": {
                "mode": "bilinear",
                "padding_mode": config.sampling_padding,
                "align_corners": False,
            },
            "restrict_grad_norm": config.clamp_position_gradient,
            "pg_inner_dim": 0.25 if config.mixing_hidden_size is None else config.mixing_hidden_size,
            "clip_quick_gelu": config.hidden_act == "quick_gelu",
        },
        "proj_dim": config.projection_dim,
        "proj_bias": config.projection_bias,
    }
    return arguments | ({"cls_token_insert_layer": config.num_focusing_units} if config.class_token else {})
