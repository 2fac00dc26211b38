"""Models that other engines run: vLLM, SGLang, LMDeploy, or `vision-agent serve`."""
