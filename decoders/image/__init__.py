"""Images from query states: the default's own small generator, and diffusers pipelines by path."""
