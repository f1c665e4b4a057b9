"""Statistics of the data of a model come in; a readable file with all that was decided from them goes out."""


rule plan:
    input:
        groundtruth=truths_of_model,
        weights=weights_of_model,
    output:
        stamp="<results>/plan/{model}.json",
    log:
        "<results>/logs/plan/{model}.log",
    benchmark:
        "<results>/benchmarks/plan/{model}.jsonl"
    wildcard_constraints:
        model=NETWORKS,
    conda:
        "../envs/unet.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        cfg=plan_options,
    message:
        "plan: {wildcards.model}, decisions from the data"
    script:
        "../scripts/plan.py"
