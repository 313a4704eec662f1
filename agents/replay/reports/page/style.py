"""The style sheet of a report's page, for light and dark, narrow screens and paper."""

from __future__ import annotations

from typing import Final

from agents.replay.reports.page.colours import COLOURS

_FAULTS = "".join(f".c{place}{{fill:{colour}}}" for place, colour in enumerate(COLOURS))
_HEAT = "".join(f".h{step}{{background:rgb(0 114 178/{step / 12:.2f})}}" for step in range(10))

STYLE: Final = (
    """
:root{color-scheme:light dark;--back:#fff;--text:#1b1b1b;--soft:#595959;--rule:#d0d0d0;--calm:#dfe3e6;--ink:#1b1b1b}
@media(prefers-color-scheme:dark){
:root{--back:#16181a;--text:#e8e8e8;--soft:#a8a8a8;--rule:#3c4043;--calm:#3a4045;--ink:#0b0b0b}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:100rem;padding:1rem;background:var(--back);color:var(--text);
font:15px/1.45 system-ui,sans-serif}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.2rem;margin:2rem 0 .5rem;border-bottom:1px solid var(--rule)}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
h1,h2,h3,li,p,dd{overflow-wrap:anywhere}
.soft,dd,caption{color:var(--soft)}
.warn{border-left:4px solid #d55e00;padding:.3rem .7rem}
.wide{overflow-x:auto;max-width:100%;margin-bottom:1rem}
.group{display:flex;flex-wrap:wrap;gap:0 2.5rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.2rem .6rem;border-bottom:1px solid var(--rule);text-align:right;vertical-align:top;white-space:nowrap}
th:first-child,td:first-child{text-align:left;white-space:normal;min-width:9rem}
thead th{color:var(--soft);font-weight:600;white-space:normal}
caption{text-align:left;padding-bottom:.3rem}
.small td,.small th{padding:.1rem .25rem;font-size:12px}
.better{font-weight:600}.better::after{content:" better"}.worse::after{content:" worse"}
.sides{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,40rem),1fr));gap:1rem 2rem}
.sides>*{min-width:0}
.charts{display:flex;flex-wrap:wrap;gap:1rem}
.chart{width:20rem;max-width:100%;height:auto}
.strips{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:3px .6rem;align-items:center}
.strips svg{display:block}
.name{color:var(--soft);font-size:12px}
svg text{font:11px system-ui,sans-serif}
.on-light{fill:#000;stroke:#fff}.on-dark{fill:#fff;stroke:#000}
.on-light,.on-dark{stroke-width:3px;stroke-opacity:.55;paint-order:stroke}
.calm{fill:var(--calm)}.recovering{fill:var(--calm)}.blank{fill:none}.strange{fill:#b0b0b0}
.calm~text,.recovering~text,.blank~text{fill:var(--text);stroke:none}
.ink{stroke:#000;stroke-opacity:.55;fill:none}.dot{fill:#000;fill-opacity:.6}
.mark{stroke:var(--text);stroke-width:2}.axis{stroke:var(--soft)}.tick{fill:var(--soft)}
.plot{fill:none;stroke:var(--rule)}.ideal{stroke:var(--soft);stroke-dasharray:4 3}
.thin{fill:none;stroke:var(--soft);stroke-opacity:.6}.thick{fill:none;stroke:#0072b2;stroke-width:2.5}
.point{fill:#0072b2;fill-opacity:.75}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1rem;padding:0;list-style:none}.legend svg{vertical-align:-3px}
.hidden{position:absolute}
dt{font-weight:600;margin-top:.5rem}dd{margin:0}
@media(max-width:40rem){body{padding:.6rem}th,td{padding:.15rem .35rem}th:first-child,td:first-child{min-width:6rem}}
@media print{:root{--back:#fff;--text:#000;--soft:#444;--rule:#bbb;--calm:#dfe3e6}
body{max-width:none;font-size:11px}.wide{overflow:visible}.machine,table,.chart{break-inside:avoid}
svg,td{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
    + _FAULTS
    + _HEAT
)
