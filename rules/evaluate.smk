"""Objects and truth come in; scores per object, per image and per data set go out."""


rule evaluate:
    input:
        instances="<results>/instances/{model}/{dataset}.json",
        groundtruth="<results>/groundtruth/{dataset}.json",
    output:
        stamp="<results>/evaluate/{model}/{dataset}.json",
    log:
        "<results>/logs/evaluate/{model}/{dataset}.log",
    benchmark:
        "<results>/benchmarks/evaluate/{model}/{dataset}.jsonl"
    conda:
        "../envs/unet.yaml"
    threads: 4
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        cfg=evaluate_options,
    message:
        "evaluate: {wildcards.model} on {wildcards.dataset}, scores"
    script:
        "../scripts/evaluate.py"
