"""Verbs that make images: `generate` and `edit`."""

from typing import TypedDict, Unpack, overload

from vision_agent.images.loading import ImageSource, load_image
from vision_agent.inference.image_generation import MaskSource, read_mask
from vision_agent.results.generated import GeneratedImage, GeneratedImages, ImageOptions, Progress
from vision_agent.validation import check_progress, check_prompts, check_request
from vision_agent.verbs.parts import Parts


class DrawSettings(TypedDict, total=False):
    """The settings of `generate`; see there."""

    seed: int | None
    steps: int | None
    size: int | tuple[int, int] | None
    guidance: float | None
    negative_prompt: str | None
    progress: Progress | None


class DrawingVerbs(Parts):
    """Images from words."""

    @overload
    def generate(self, prompt: str, **settings: Unpack[DrawSettings]) -> GeneratedImage: ...

    @overload
    def generate(self, prompt: list[str], **settings: Unpack[DrawSettings]) -> GeneratedImages: ...

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
            prompt: what it shows, such as `"two red apples"`; or a list, which gives as many images.
            seed: the same seed gives the same image; None draws one, which the result tells. Image k of a list
                takes `seed + k`.
            steps: steps from noise to image, None for the decoder's own number.
            size: a side, or (width, height), in pixels; None for the decoder's own. The default's small generator draws
                at one size and enlarges.
            guidance: from 1; how strictly the words are followed.
            negative_prompt: what to keep away from.
            progress: called as `progress(step, steps, preview)` after every step.

        Returns:
            the image, with `.unknown_words` that the decoder was never taught.

        Raises:
            RouteError: the model has no `[GEN]` route.
            InputError: an empty prompt, a number out of range.
            ArgumentTypeError: values of other types.
        """
        prompts = check_prompts("prompt", prompt)
        away = None if negative_prompt is None else check_prompts("negative_prompt", negative_prompt)[0]
        decoder = self._image_generator.decoder("gen")
        options = ImageOptions.of(seed, steps, size, guidance, decoder.largest_side)
        check_progress(progress)
        made = self._image_generator.draw("gen", prompts, options, away, progress)
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
        picture = load_image(image, limits=self._limits)
        allowed = read_mask(mask, picture.size)
        return self._image_generator.draw("edit", (prompt,), options, None, progress, picture, allowed)[0]
