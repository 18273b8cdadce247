"""The lab: the field's own probes of long-context reading, for any model, any method and one's own text.

Everything is made of plain rows (`selfextend.lab.records`); tables and figures are made from the rows. Knows
nothing about Gradio, plotly or pages.
"""
