"""The verbs of a `VisionAgent` that make images."""

from typing import Unpack, overload

from vision_agent.images.loading import ImageLimits, ImageSource, load_image
from vision_agent.inference.image_generation import ImageGenerator, MaskSource, read_mask
from vision_agent.inference.settings import GenerateSettings
from vision_agent.results.generated import GeneratedImage, GeneratedImages, ImageOptions, Progress
from vision_agent.validation import check_progress, check_prompts, check_request


class GenerationVerbs:
    """What `VisionAgent` does to make images. It is a part of that class, made by it."""

    _image_generator: ImageGenerator
    _limits: ImageLimits

    @overload
    def generate(self, prompt: str, **settings: Unpack[GenerateSettings]) -> GeneratedImage: ...

    @overload
    def generate(self, prompt: list[str], **settings: Unpack[GenerateSettings]) -> GeneratedImages: ...

    def generate(
        self,
        prompt: str | list[str],
        *,
        seed: int | None = None,
        steps: int | None = None,
        size: int | tuple[int, int] | None = None,
        guidance: float | None = None,
        negative_prompt: str | None = None,
        progress: Progress | None = None,
    ) -> GeneratedImage | GeneratedImages:
        """Make an image from words, by the `[GEN]` route.

        Args:
            prompt: what the image shows, such as `"two red apples"`; or a list, which gives as many images.
            seed: the same seed gives the same image; None takes a random one, which the result holds. Image k of a
                list takes `seed + k`.
            steps: steps from noise to image; None for the decoder's own number.
            size: a side, or (width, height), in pixels; None for the decoder's own. The default's small generator
                works at one size and enlarges the image.
            guidance: how strictly the words are followed, from 1.
            negative_prompt: what the image should not show.
            progress: called as `progress(step, steps, preview)` after every step.

        Returns:
            the image, with `.unknown_words` that the decoder was never taught.

        Raises:
            RouteError: the model has no `[GEN]` route.
            InputError: an empty prompt, a number out of range.
            ArgumentTypeError: values of other types.
        """
        prompts = check_prompts("prompt", prompt)
        negative = None if negative_prompt is None else check_prompts("negative_prompt", negative_prompt)[0]
        decoder = self._image_generator.decoder("gen")
        options = ImageOptions.of(seed, steps, size, guidance, decoder.largest_side)
        check_progress(progress)
        made = self._image_generator.generate("gen", prompts, options, negative, progress)
        return made[0] if isinstance(prompt, str) else made

    def edit(
        self,
        prompt: str,
        image: ImageSource,
        *,
        mask: MaskSource | None = None,
        seed: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        progress: Progress | None = None,
    ) -> GeneratedImage:
        """Change an image by words, such as `"make the car blue"`, by the `[EDIT]` route.

        Args:
            prompt: the change.
            image: an image (see `load_image` for the kinds).
            mask: where it may change: a `Mask`, an image (white may) or an array (height, width); None for everywhere.
            seed, steps, guidance, progress: as for `generate`.

        Returns:
            an image of the same size.

        Raises:
            RouteError: the model has no `[EDIT]` route.
            InputError: an empty prompt, a number out of range, a mask of another shape or without any place to change.
            ArgumentTypeError: swapped arguments, or values of other types.
        """
        check_request("prompt", prompt, image)
        check_prompts("prompt", prompt)
        decoder = self._image_generator.decoder("edit")
        options = ImageOptions.of(seed, steps, None, guidance, decoder.largest_side)
        check_progress(progress)
        loaded = load_image(image, limits=self._limits)
        allowed = read_mask(mask, loaded.size)
        return self._image_generator.generate("edit", (prompt,), options, None, progress, loaded, allowed)[0]
