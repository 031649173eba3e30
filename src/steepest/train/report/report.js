/* Draws the charts of a report. The data stands in the page as JSON; plotly is loaded before this script. */
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("charts").textContent);
  const darkQuery = matchMedia("(prefers-color-scheme: dark)");
  const narrowQuery = matchMedia("(max-width: 640px)");
  const dashes = ["dash", "dot", "longdashdot", "6px,3px"];
  const symbols = ["circle", "square", "diamond", "triangle-up", "cross", "x"];
  let printing = false;

  const themes = {
    light: { ink: "#26282b", faint: "#6b7078", grid: "#e6e7ea", level: "#6b7078", paper: "#ffffff" },
    dark: { ink: "#e4e6e9", faint: "#9aa0a8", grid: "#33373d", level: "#a9afb7", paper: "#1f2226" },
  };
  const mode = () => (darkQuery.matches && !printing ? "dark" : "light");

  const xOf = (curve, axis) => (curve.x[axis] && curve.x[axis].some((x) => x !== null) ? curve.x[axis] : null);

  /* Two lines that are not seen, and what is between them. */
  function bandTraces(curve, axis, colors) {
    if (!curve.band) return [];
    const color = colors[curve.color % colors.length];
    const side = { x: xOf(curve, axis) || [], mode: "lines", line: { width: 0, color }, hoverinfo: "skip", showlegend: false };
    return [{ ...side, y: curve.band[0] }, { ...side, y: curve.band[1], fill: "tonexty", fillcolor: color + "2e" }];
  }

  function curveTrace(curve, axis, colors) {
    const color = colors[curve.color % colors.length];
    const faint = curve.style === "faint";
    const trace = {
      name: escapeName(curve.name), x: xOf(curve, axis) || [], y: curve.y, mode: "lines",
      line: { color, width: faint ? 1 : 2 }, opacity: faint ? 0.3 : 1, showlegend: !faint, connectgaps: false,
    };
    if (faint) trace.hoverinfo = "skip";
    if (curve.style === "points" || curve.y.length < 3) {
      trace.mode = "lines+markers";
      trace.marker = { size: 7, color };
    }
    if (curve.style === "marks") {
      trace.mode = "markers+text";
      trace.text = curve.y.map(() => trace.name);
      trace.textposition = "top center";
      trace.showlegend = false;
      trace.cliponaxis = false;
      trace.marker.size = 11;
      trace.marker.symbol = symbols[curve.color % symbols.length];
    }
    return trace;
  }

  /* Plotly reads a few HTML tags in names; a name is text. */
  function escapeName(name) {
    return String(name).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  }

  function levelTraces(chart, axis, theme) {
    const all = chart.curves.flatMap((curve) => xOf(curve, axis) || []).filter((x) => x !== null);
    const to = 1.01 * Math.max(...extent(all));
    return chart.levels.map((level, index) => ({
      name: escapeName(level.name) + "  " + level.y.toFixed(3), x: [0, to], y: [level.y, level.y],
      mode: "lines", hoverinfo: "name",
      line: { color: theme.level, width: 1.5, dash: dashes[index % dashes.length] },
    }));
  }

  /* Math.min(...array) overflows the stack for long arrays. */
  function extent(values) {
    return values.reduce(([low, high], x) => [Math.min(low, x), Math.max(high, x)], [Infinity, -Infinity]);
  }

  function marksOnly(chart) {
    return chart.curves.length > 0 && chart.curves.every((curve) => curve.style === "marks");
  }

  /* Room for the names above the points. */
  function marksRange(chart) {
    const [low, high] = extent(chart.curves.flatMap((curve) => curve.y).filter((y) => y !== null));
    const span = high - low || Math.abs(high) || 1;
    return [low - 0.15 * span, high + 0.3 * span];
  }

  // Plotly writes the 2 and the 5 between powers of ten in small print; here 1 and 3 stand in full.
  function logTicks(chart, axis) {
    const xs = chart.curves.flatMap((curve) => xOf(curve, axis) || []).filter((x) => x > 0);
    if (!xs.length) return { type: "log" };
    const [low, high] = extent(xs);
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const digit of [1, 3]) ticks.push(Number(`${digit}e${power}`));
    }
    const shown = ticks.filter((x) => x > low / 1.5 && x < 1.5 * high);
    return { type: "log", tickmode: "array", tickvals: shown, ticktext: shown.map(String) };
  }

  function xaxisOf(chart, axis, line, title, end) {
    const common = { ...line, automargin: true, nticks: narrowQuery.matches ? 5 : 9 };
    if (!chart.xTitle) return { ...common, title: title(data.axes[axis]), range: [0, end || 1] };
    const shown = { ...common, title: title(chart.xTitle), ...(chart.xLog ? logTicks(chart, axis) : { type: "linear" }) };
    // Fixed: on a few points with names the automatic range and the automatic margin chase one another.
    return marksOnly(chart) ? { ...shown, range: [0, 1.15 * (end / 1.01 || 1)] } : shown;
  }

  function layoutOf(chart, axis, theme, tall) {
    const end = 1.01 * Math.max(0, ...chart.curves.map((curve) => extent((xOf(curve, axis) || []).filter((x) => x !== null))[1]));
    const line = { gridcolor: theme.grid, zerolinecolor: theme.grid, linecolor: theme.grid, tickcolor: theme.grid };
    const title = (text) => ({ text, font: { size: 12, color: theme.faint }, standoff: 8 });
    const shown = chart.curves.filter((curve) => curve.style !== "faint").length + chart.levels.length;
    return {
      height: tall ? 420 : 260,
      margin: { l: 8, r: 12, t: 8, b: 8 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 12, color: theme.ink },
      xaxis: xaxisOf(chart, axis, line, title, end),
      yaxis: { ...line, title: title(chart.yTitle), automargin: true, range: chart.yRange || (marksOnly(chart) ? marksRange(chart) : undefined), rangemode: chart.fromZero ? "tozero" : "normal" },
      showlegend: shown > 1,
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", font: { size: 12 } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: theme.faint, activecolor: theme.ink },
      hovermode: chart.xTitle ? "closest" : "x unified",
      hoverlabel: { bgcolor: theme.paper, bordercolor: theme.grid, font: { color: theme.ink } },
    };
  }

  function draw() {
    const switched = (document.querySelector('input[name="axis"]:checked') || { value: "tokens" }).value;
    const theme = themes[mode()];
    const colors = data.palette[mode()];
    data.charts.forEach((chart, index) => {
      const place = document.getElementById("chart-" + index);
      if (!chart || !place) return;
      const axis = chart.xTitle ? "own" : switched;
      const tall = place.closest("figure").className === "tall";
      const traces = [...levelTraces(chart, axis, theme), ...chart.curves.flatMap((c) => bandTraces(c, axis, colors)), ...chart.curves.map((c) => curveTrace(c, axis, colors))];
      const options = { responsive: true, displaylogo: false, displayModeBar: narrowQuery.matches ? false : "hover", modeBarButtons: [["toImage", "resetScale2d"]] };
      Plotly.react(place, traces, layoutOf(chart, axis, theme, tall), options);
    });
  }

  document.querySelectorAll('input[name="axis"]').forEach((input) => input.addEventListener("change", draw));
  darkQuery.addEventListener("change", draw);
  narrowQuery.addEventListener("change", draw);
  addEventListener("beforeprint", () => { printing = true; draw(); });
  addEventListener("afterprint", () => { printing = false; draw(); });
  draw();
  /* A page may get narrower without the window being resized: a frame, a first layout that is corrected. */
  const fit = new ResizeObserver((entries) => entries.forEach((entry) => entry.target.data && Plotly.Plots.resize(entry.target)));
  document.querySelectorAll(".chart").forEach((place) => fit.observe(place));
  document.documentElement.dataset.drawn = "yes";
})();
