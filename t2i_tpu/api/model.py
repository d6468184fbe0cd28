"""A trained model that draws and edits images."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from t2i_tpu.api import drawing_records, editing, interpolation, requests
from t2i_tpu.api.prompts import Drawing, Picture, Prompt, PromptEncoder, list_prompts
from t2i_tpu.config import Config, SampleConfig
from t2i_tpu.sample.images import Images, join_images
from t2i_tpu.sample.trained import TrainedModel, change_settings

_BLOCK = 256  # number of drawings whose prompts are encoded together


class Model:
    """A trained model. `t2i_tpu.load` returns one.

    Every image is a function of its prompt, its seed and the settings. It does not depend on the other
    images that are drawn with it. The methods that draw take the settings of config.sample as keyword
    arguments: sampler, levels, shift, steps, guidance_scale, guidance_interval, guidance_rescale and
    threshold_percentile. A new number of steps or a new value of one of the last three compiles a program
    when it is first used. Errors are of the type `UserError`, with a message of one line.
    """

    def __init__(self, trained: TrainedModel):
        self.trained, self.encoder = trained, PromptEncoder(trained)

    def __repr__(self) -> str:
        size, kind = self.config.data.image_size, self.config.model.conditioning
        return f"<Model of {self.workdir}, step {self.step}: {size}x{size} pixels, conditioning={kind}>"

    @property
    def workdir(self) -> str:
        """The folder of the run."""
        return self.trained.workdir

    @property
    def step(self) -> int:
        """The step of the checkpoint."""
        return self.trained.step

    @property
    def config(self) -> Config:
        """The run's config, whose `sample` group holds the model's default settings."""
        return self.trained.config

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that the model draws, or () if it draws prompts."""
        is_classes = self.config.model.conditioning == "label"
        return tuple(self.trained.manifest.label_names) if is_classes else ()

    def sample(
        self,
        prompts: Prompt | Sequence[Prompt],
        num_images: int = 1,
        seed: int = 0,
        negative_prompt: Prompt = "",
        noise: np.ndarray | None = None,
        **settings: Any,
    ) -> Images:
        """Draw images of prompts.

        Args:
          prompts: a prompt or a list of prompts. A prompt is a string; the name or number of a class, if
            the model was trained on classes; an image (a PIL picture or an array), to draw similar
            images; or a list of pairs of one of these and a weight, to combine them.
          num_images: number of images of each prompt.
          seed: the seed of each prompt's first image. Image i of a prompt is drawn from seed + i.
          negative_prompt: what guidance should steer away from.
          noise: float32 [H, W, C] or [N, H, W, C], the noise to start from instead of the noise of the
            seeds, such as the noise that `invert` finds.
          **settings: see the class.

        Returns:
          The images, grouped by prompt.

        Raises:
          UserError: an argument is not valid.
        """
        drawings = [
            drawing
            for prompt in list_prompts(prompts)
            for drawing in self._make_drawings(prompt, num_images, seed, negative_prompt)
        ]
        if noise is not None:
            noise = requests.check_noise(noise, len(drawings), self.trained)
        return join_images(self.draw(drawings, noise, **settings))

    def draw(
        self, drawings: Iterable[Drawing], noise: np.ndarray | None = None, **settings: Any
    ) -> Iterator[Images]:
        """Draw any number of images in bounded memory.

        Args:
          drawings: the images to draw. They are read as they are needed.
          noise: float32 [N, H, W, C], the noise to start from instead of the noise of the seeds.
          **settings: see the class.

        Yields:
          The next images, in the order of the drawings.
        """
        settings, rows = self.resolve_settings(settings), iter(drawings)
        size, start = self.trained.generator.batch_size, 0
        while block := list(itertools.islice(rows, _BLOCK)):
            parsed = requests.parse_drawings(block, settings, self.encoder)
            for first in range(0, len(parsed), size):
                batch = parsed[first : first + size]
                part = None if noise is None else noise[start : start + len(batch)]
                request = requests.make_request(batch, settings, self.encoder, start=part)
                images, _ = self.trained.generator.run(request)
                task = drawing_records.SAMPLE if noise is None else "sample from noise"
                records = drawing_records.make_records(task, batch, settings, self.trained)
                yield Images(images, records)
                start += len(batch)

    def interpolate(
        self,
        *prompts: Prompt,
        frames: int = 9,
        seed: int | Sequence[int] = 0,
        method: str = "spherical",
        negative_prompt: Prompt = "",
        **settings: Any,
    ) -> Images:
        """Draw the frames between prompts, between seeds, or between both.

        Args:
          *prompts: the prompts of the key points. Give two or more, or one if there are several seeds.
          frames: number of frames from each key point to the next, including both.
          seed: the seed of all key points, or a list with the seed of each key point.
          method: "spherical" or "linear".
          negative_prompt: what guidance should steer away from.
          **settings: see the class.

        Returns:
          The frames. If they are saved as .gif, .webp or .mp4, they become an animation.

        Raises:
          UserError: an argument is not valid.
        """
        settings = self.resolve_settings(settings)
        return interpolation.interpolate(
            self.trained, self.encoder, prompts, frames, seed, method, negative_prompt, settings
        )

    def edit(
        self,
        image: Picture,
        prompt: Prompt,
        strength: float = 0.6,
        num_images: int = 1,
        seed: int = 0,
        negative_prompt: Prompt = "",
        **settings: Any,
    ) -> Images:
        """Change an image towards a prompt (Meng et al., 2022).

        Args:
          image: the image. If its size is not the model's, its middle square is resized.
          prompt: what the result should show.
          strength: how much to change the image, from 0.01 to 1. 1 keeps nothing of it. The edit starts
            at the noise level 2 strength / (1 + strength).
          num_images: number of results.
          seed: the seed of the first result.
          negative_prompt: what guidance should steer away from.
          **settings: see the class.

        Raises:
          UserError: an argument is not valid.
        """
        drawings = self._make_drawings(prompt, num_images, seed, negative_prompt)
        return editing.edit(
            self.trained, self.encoder, image, drawings, strength, self.resolve_settings(settings)
        )

    def vary(
        self,
        image: Picture,
        prompt: Prompt | None = None,
        strength: float = 0.6,
        num_images: int = 4,
        seed: int = 0,
        **settings: Any,
    ) -> Images:
        """Draw variations of an image.

        Args:
          image: the image. If its size is not the model's, its middle square is resized.
          prompt: what the image shows. By default, the prompt is the image itself if the model takes
            embeddings of color images. Otherwise, the variations are drawn without a prompt.
          strength, num_images, seed, **settings: see `edit`.

        Raises:
          UserError: an argument is not valid.
        """
        if prompt is None:
            prompt, settings = editing.choose_prompt(self.trained, image, settings)
        return self.edit(image, prompt, strength, num_images, seed, **settings)

    def inpaint(
        self,
        image: Picture,
        mask: Picture | None,
        prompt: Prompt,
        resamplings: int = 4,
        num_images: int = 1,
        seed: int = 0,
        negative_prompt: Prompt = "",
        **settings: Any,
    ) -> Images:
        """Repaint a part of an image (Lugmayr et al., 2022). The other pixels do not change.

        Args:
          image: the image. If its size is not the model's, its middle square is resized.
          mask: a black and white image of the same size, whose white parts are repainted. None means the
            transparent parts of the image.
          prompt: what the result should show.
          resamplings: how often each noise level is visited, at least 1. With more visits, the new part
            fits the known part better, but drawing takes proportionally longer.
          num_images: number of results.
          seed: the seed of the first result.
          negative_prompt: what guidance should steer away from.
          **settings: see the class. If resamplings is above 1, the sampler is DDIM.

        Raises:
          UserError: an argument is not valid.
        """
        drawings = self._make_drawings(prompt, num_images, seed, negative_prompt)
        settings = self.resolve_settings(settings)
        return editing.inpaint(
            self.trained, self.encoder, image, mask, drawings, resamplings, settings
        )

    def outpaint(
        self, image: Picture, prompt: Prompt, scale: float = 0.6, **arguments: Any
    ) -> Images:
        """Draw what surrounds an image.

        Args:
          image: the image. If its size is not the model's, its middle square is resized.
          prompt: what the result should show.
          scale: the width of the image as a share of the width of the result, above 0 and below 1.
          **arguments: see `inpaint`.

        Raises:
          UserError: an argument is not valid.
        """
        surrounded, mask = editing.surround(self.trained, image, scale)
        return self.inpaint(surrounded, mask, prompt, **arguments)

    def invert(self, image: Picture, prompt: Prompt, **settings: Any) -> editing.Inversion:
        """Find the noise from which the model draws an image.

        Args:
          image: the image. If its size is not the model's, its middle square is resized.
          prompt: what the image shows.
          **settings: see the class. By default, the guidance scale is 1, and UniPC takes 50 steps that are
            evenly spaced in log SNR.

        Returns:
          The noise, the image that the model draws from it, and their difference.

        Raises:
          UserError: an argument is not valid.
        """
        settings = self.resolve_settings(editing.INVERSION_SETTINGS | settings)
        return editing.invert(self.trained, self.encoder, image, Drawing(prompt), settings)

    def redraw(self, records: Sequence[dict]) -> Images:
        """Draw images again from their records; see `t2i_tpu.read_records`.

        Raises:
          UserError: an image cannot be drawn again from its record alone.
        """
        parts = []
        for (task, _), group in itertools.groupby(records, key=drawing_records.get_group):
            group = [drawing_records.check_record(record, self.trained) for record in group]
            if task == drawing_records.INTERPOLATE:
                prompts, arguments = drawing_records.restore_interpolation(group[0])
                frames = self.interpolate(*prompts, **arguments)
                parts.append(frames[[record["frame"] for record in group]])
            else:
                drawings = map(drawing_records.restore_drawing, group)
                parts += self.draw(drawings, **drawing_records.get_settings(group[0]))
        return join_images(parts)

    def resolve_settings(self, settings: dict[str, Any]) -> SampleConfig:
        """Return the model's settings with changes. Raises UserError if a value is not allowed."""
        return change_settings(self.config, settings).sample

    def _make_drawings(self, prompt, num_images, seed, negative_prompt) -> list[Drawing]:
        count, seed = requests.check_count("num_images", num_images), requests.check_seed(seed)
        return [Drawing(prompt, seed + index, negative_prompt) for index in range(count)]
