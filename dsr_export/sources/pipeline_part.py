"""`--model-dir FOLDER --option part=ROLE`: a text encoder of a pipeline, or the decoder or encoder of its latents."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dsr_export.bundle.component_entries import TEXT_ENCODERS
from dsr_export.config import ModelRequest
from dsr_export.errors import ExportError
from dsr_export.families.diffusers.files import STEMS
from dsr_export.families.diffusers.vae_folder import VaeFolder
from dsr_export.families.digests import file_sha256
from dsr_export.families.folder_weights import weight_files
from dsr_export.families.text_encoders.folder import TextEncoderFolder, open_text_encoder
from dsr_export.pipelines.folder import CONFIG, INDEX, VAE, VAE_ENCODER, VAES, PipelineFolder, open_pipeline
from dsr_export.pipelines.parts import PipelineSizes, TextPart, VaePart
from dsr_export.pipelines.table import recipe_of
from dsr_export.sources.diffusers_folder import check_folder_request, check_weights, lora_key
from dsr_export.subject import Subject
from graphs.digests import files_digest

OPTION = "part"
ROLES = (*TEXT_ENCODERS, *VAES)


@dataclass(frozen=True)
class PipelinePartSource:
    """One part of one request; its files are read when they are first needed."""

    request: ModelRequest
    directory: Path
    role: str

    @property
    def name(self) -> str:
        return f"{self._pipeline.name}-{self.role}"

    def key(self) -> dict[str, Any]:
        part = self._part
        opened = self._vae if isinstance(part, VaePart) else self._text_encoder
        return {
            "class": opened.class_name,
            "part": dataclasses.asdict(part),
            "config_sha256": file_sha256(opened.path / CONFIG),
            "weights_sha256": files_digest(list(opened.weights)) if opened.weights else None,
            "random_weights": self.request.random_weights,
            **lora_key(self.request.loras),
        }

    def load(self) -> Subject:
        seed, part = self.request.random_weights, self._part
        if isinstance(part, VaePart):
            from dsr_export.families.diffusers.vae import Latents, vae_encoder_subject, vae_subject

            sizes = {"height": part.height, "width": part.width}
            latents = Latents(**sizes, scaling_factor=part.scaling_factor, shift_factor=part.shift_factor)
            made = vae_encoder_subject if part.encodes else vae_subject
            return made(self.name, self._vae, latents, random_weights=seed)
        from dsr_export.families.text_encoders.models import Loras, text_encoder_subject

        loras = Loras(self.role, self.request.loras)
        return text_encoder_subject(self.name, self._text_encoder, part.reads, random_weights=seed, loras=loras)

    def check_weights(self) -> None:
        """Raises ExportError for files of weights that are damaged or none, as far as their headers tell."""
        opened = self._vae if isinstance(self._part, VaePart) else self._text_encoder
        check_weights(opened.weights)

    def check_adapters(self) -> None:
        """Raises ExportError where an adapter does not fit the text encoder, of which no weight is read."""
        if self.request.loras:
            from dsr_export.families.text_encoders.models import Loras, check_loras

            check_loras(self._text_encoder, Loras(self.role, self.request.loras))

    @cached_property
    def _pipeline(self) -> PipelineFolder:
        return open_pipeline(self.directory)

    @cached_property
    def _part(self) -> TextPart | VaePart:
        recipe = recipe_of(self._pipeline.class_name, str(self.directory / INDEX))
        sizes = PipelineSizes(self._pipeline, self.request.options)
        if self.role in VAES:
            return dataclasses.replace(recipe.vae_part(sizes), encodes=self.role == VAE_ENCODER)
        parts = {part.role: part for part in recipe.text_parts(sizes)}
        if self.role not in parts:
            named = ", ".join((*parts, *VAES))
            raise ExportError(f"{self._pipeline.class_name} has no {self.role}", hint=f"its parts: {named}")
        return parts[self.role]

    @cached_property
    def _vae(self) -> VaeFolder:
        path = self._pipeline.part(VAE)
        config = self._pipeline.config(VAE)
        weights = weight_files(path, STEMS) if self.request.random_weights is None else ()
        return VaeFolder(path=path, class_name=self._pipeline.classes[VAE], config=config, weights=weights)

    @cached_property
    def _text_encoder(self) -> TextEncoderFolder:
        path, class_name = self._pipeline.part(self.role), self._pipeline.classes[self.role]
        return open_text_encoder(path, class_name, own_weights=self.request.random_weights is None)


def accepts(request: ModelRequest) -> bool:
    """A model folder of which a part with a pipeline's name is asked for."""
    return request.model_dir is not None and request.options.get(OPTION) in ROLES


def source(request: ModelRequest) -> PipelinePartSource:
    """The source. Raises ExportError where the request gives what is the transformer's own."""
    folder = check_folder_request(request)
    role = str(request.options[OPTION])
    for field, flag in (("checkpoint", "--checkpoint"), ("registers", "--registers"), ("dsr", "--dsr")):
        if getattr(request, field) is not None:
            raise ExportError(f"{flag} is for the transformer, and the {role} is asked for", hint="leave it out")
    if role in VAES and request.loras:
        raise ExportError(f"--lora is for the transformer and text encoders, and the {role} is asked for")
    return PipelinePartSource(request, folder, role)
