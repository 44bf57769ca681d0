"""Flags of `vllm serve` about the model: its files, tokenizer, adapters, other media."""

from fastserve.cli.vllm_flags.flag import only, only_off, only_on, refused, same

GENERATES = "only models that generate text are served; leave it out"
NO_CODE = "code from a checkpoint or a plugin is never run; docs/models.md lists the supported model families"
TEXT = "only text models are served; leave it out"
NO_ADAPTERS = "adapters are not supported; merge the adapter into the weights"
EDIT_CONFIG = "config.json of the model's folder is used as it is; edit it in a copy of the folder"
NO_QUANTIZATION = "weights are float32, bfloat16 or float16 (--dtype); use an unquantized checkpoint"
NO_REASONING_PLUGINS = "code from a plugin is never run; --reasoning-parser has the formats"
SAFETENSORS = "only safetensors files are read, and how is not configurable; leave it out"
NO_SLEEP = "a server keeps its memory until it ends; stop it to free the device"
FORMS = "structured output is by xgrammar, with up to 32 blanks between two parts of a JSON text; leave it out"
FORMS_AS_HERE = (
    "{}", '{"backend":"auto"}', '{"backend":"xgrammar"}', '{"disable_any_whitespace":false}', '{"disable_fallback":true}',
    '{"backend":"xgrammar","disable_any_whitespace":false}', '{"backend":"xgrammar","disable_fallback":true}',
)  # fmt: skip
SPECIAL_LOGITS = "sampling is set by the fields of a request (docs/serving.md); leave it out"

MODEL = (
    same("model", "the positional MODEL wins"),
    only("runner", ("auto", "generate"), GENERATES),
    only("convert", ("auto", "none"), GENERATES),
    same("tokenizer"),
    only("tokenizer-mode", ("auto", "hf"), "the checkpoint's own fast tokenizer is used; --tokenizer names another one"),
    only_off("trust-remote-code", NO_CODE),
    same("dtype", "`half` = `float16`, `float` = `float32`"),
    same("seed"),
    refused("hf-config-path", EDIT_CONFIG),
    only("allowed-local-media-path", "", TEXT),
    refused("allowed-media-domains", TEXT, shape="values"),
    same("revision"),
    refused("code-revision", NO_CODE),
    refused("tokenizer-revision", "--revision applies to the tokenizer as well; use --tokenizer for another tokenizer"),
    same("max-model-len", "`8k`, `8K` as in vLLM; `auto` and `-1` are refused: give a number, or leave it out for the model's own limit"),
    refused("quantization -q", NO_QUANTIZATION),
    only("quantization-config", "{}", NO_QUANTIZATION),
    only_off("allow-deprecated-quantization", NO_QUANTIZATION),
    same("enforce-eager"),
    only_off("enable-return-routed-experts", "mixture-of-experts models are not supported; leave it out"),
    only_off("return-sampling-mask", SPECIAL_LOGITS),
    only("max-logprobs", "20", "a request may ask for at most 20 log probabilities per token; leave it out"),
    only("logprobs-mode", "raw_logprobs", "log probabilities are computed before penalties and temperature; leave it out"),
    only_off("use-fp64-gumbel", SPECIAL_LOGITS),
    only_off("enable-trace-replay", "--record FILE writes a trace, `fastserve bench serve` replays it"),
    only_off("disable-sliding-window", EDIT_CONFIG),
    only_on("disable-cascade-attn", "cascade attention does not exist here; leave it out"),
    only_off("skip-tokenizer-init", "the server needs the tokenizer; clients may still send token ids as a prompt"),
    only_off("enable-prompt-embeds", "a prompt is text or token ids; leave it out"),
    same("served-model-name"),
    only("config-format", ("auto", "hf"), "only Hugging Face checkpoints are read; convert the checkpoint"),
    refused("hf-token", "set HF_TOKEN in the environment: a command line is no secret", shape="optional"),
    only("hf-overrides", "{}", EDIT_CONFIG),
    only("model-class-overrides", "{}", NO_CODE),
    only("pooler-config", "{}", GENERATES),
    same("generation-config"),
    same("override-generation-config"),
    only_off("enable-sleep-mode", NO_SLEEP),
    only_off("sleep-mode-offload-cudagraph", NO_SLEEP),
    refused("sleep-preserve-parameter-names", NO_SLEEP, shape="values"),
    only_off("enable-cumem-allocator", NO_SLEEP),
    only_off("enable-nccl-comm-suspend", NO_SLEEP),
    only("model-impl", "auto", "models run on FastServe's own implementation (docs/models.md); leave it out"),
    refused("logits-processors", NO_CODE, shape="values"),
    refused("io-processor-plugin", NO_CODE),
    refused("renderer-num-workers", "chat templates are rendered in separate processes; leave it out"),
    same("load-format", "`safetensors` (= `auto`) or `dummy`"),
    same("download-dir"),
    refused("safetensors-load-strategy", SAFETENSORS),
    refused("safetensors-prefetch-num-threads", SAFETENSORS),
    refused("safetensors-prefetch-block-size", SAFETENSORS),
    only("model-loader-extra-config", "{}", SAFETENSORS),
    only("ignore-patterns", "original/**/*", SAFETENSORS, shape="values"),
    only_on("use-tqdm-on-load", "progress is shown on a terminal only; leave it out"),
    refused("pt-load-map-location", SAFETENSORS),
    same("reasoning-parser", "`qwen3`, `deepseek_r1`"),
    only("reasoning-parser-plugin", "", NO_REASONING_PLUGINS),
    only("reasoning-config", "{}", "the marks of the reasoning are those of --reasoning-parser; leave it out"),
    only("structured-outputs-config", FORMS_AS_HERE, FORMS),
)  # fmt: skip

ADAPTERS = (
    only_off("enable-lora", NO_ADAPTERS),
    refused("lora-modules", NO_ADAPTERS, shape="values"),
    *(
        refused(name, NO_ADAPTERS)
        for name in ("max-loras", "max-lora-rank", "lora-dtype", "max-cpu-loras", "default-mm-loras", "max-lora-cls-labels")
    ),
    refused("lora-target-modules", NO_ADAPTERS, shape="values"),
    *(
        only_off(name, NO_ADAPTERS)
        for name in (
            "enable-tower-connector-lora", "fully-sharded-loras", "specialize-active-lora", "enable-mixed-moe-lora-format",
            "enable-moe-shared-loras",
        )
    ),
)  # fmt: skip

MEDIA = (
    only_on("language-model-only", TEXT),
    only("limit-mm-per-prompt", ("{}", '{"image":0}', '{"image":0,"video":0}', '{"image":0,"video":0,"audio":0}'), TEXT),
    *(
        only_off(name, TEXT)
        for name in ("enable-mm-embeds", "mm-encoder-only", "interleave-mm-strings", "mm-device-do-normalize",
                     "trust-request-mm-kwargs", "disable-chunked-mm-input")
    ),
    only_on("skip-mm-profiling", TEXT),
    only("media-io-kwargs", "{}", TEXT),
    only("mm-processor-kwargs", "{}", TEXT),
    only("mm-processor-cache-gb", "0", TEXT),
    only("video-pruning-rate", "0", TEXT),
    only("mm-ipc-gpu-memory-gb", "0", TEXT),
    *(
        refused(name, TEXT)
        for name in (
            "mm-processor-cache-type", "mm-hasher-algorithm", "mm-shm-cache-max-object-size-mb", "mm-encoder-tp-mode",
            "mm-encoder-attn-backend", "mm-encoder-attn-dtype", "mm-encoder-fp8-scale-path", "mm-encoder-fp8-scale-save-path",
            "mm-encoder-fp8-scale-save-margin", "video-pruning-method", "mm-tensor-ipc", "mm-processor-device",
            "ec-transfer-config",
        )
    ),
    only("ec-manager-config", "{}", TEXT),
)  # fmt: skip

# No longer flags of vLLM; commands in use still have them.
FORMER_MODEL = (
    only("task", ("auto", "generate"), GENERATES),
    only("rope-scaling", "{}", EDIT_CONFIG),
    refused("rope-theta", EDIT_CONFIG),
    only("guided-decoding-backend", ("auto", "xgrammar"), FORMS),
    only_off("enable-reasoning", "use --reasoning-parser, which names the format"),
    only_on("disable-mm-preprocessor-cache", TEXT),
    refused("lora-extra-vocab-size", NO_ADAPTERS),
    only("override-neuron-config", "{}", "models run on CPUs and NVIDIA GPUs; leave it out"),
)  # fmt: skip
