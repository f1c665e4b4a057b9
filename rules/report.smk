"""Scores and stores come in; tables and one HTML page go out."""


rule report:
    input:
        stamps_of_report,
    output:
        page="<results>/report/report.html",
        csv="<results>/report/table.csv",
        markdown="<results>/report/table.md",
        latex="<results>/report/table.tex",
    log:
        "<results>/logs/report.log",
    conda:
        "../envs/unet.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        cfg=report_options,
    message:
        "report: tables and page"
    script:
        "../scripts/report.py"
