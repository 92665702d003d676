"use strict";
// Without this script the page is whole: every budget is shown, every number is in a table.
(() => {
  document.documentElement.classList.add("scripted");
  const tips = JSON.parse(document.getElementById("tips").textContent);

  for (const figure of document.querySelectorAll("[data-chart]")) chart(figure, tips[figure.dataset.chart] || []);
  budgets();

  function chart(figure, texts) {
    const plot = figure.querySelector(".plot");
    const points = [...plot.querySelectorAll(".point")];
    if (!points.length) return;
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.setAttribute("role", "status");
    figure.append(tip);
    const ring = document.createElementNS(plot.namespaceURI, "circle");
    ring.setAttribute("class", "ring");
    ring.setAttribute("r", "9");
    let current = null;

    for (const point of points) {
      point.setAttribute("role", "img");
      point.setAttribute("aria-label", (texts[point.dataset.tip] || []).join("; "));
      point.setAttribute("tabindex", "-1");
    }
    const seriesOf = (point) => point.closest("[data-series]");
    const shown = () => points.filter((point) => !seriesOf(point).classList.contains("off"));
    const byNumber = (point) => Number(seriesOf(point).dataset.series);
    const place = (point) => {
      const box = point.getBoundingClientRect();
      return { x: box.left + box.width / 2, y: box.top + box.height / 2 };
    };
    enter();

    // One stop for Tab in each chart; the arrow keys go on from there.
    function enter() {
      const held = shown();
      for (const point of points) point.setAttribute("tabindex", "-1");
      const first = held.includes(current) ? current : held.toSorted((a, b) => byNumber(a) - byNumber(b))[0];
      if (first) first.setAttribute("tabindex", "0");
    }

    function show(point) {
      current = point;
      tip.replaceChildren();
      (texts[point.dataset.tip] || []).forEach((line, number) => {
        const part = document.createElement(number ? "span" : "b");
        if (number === 1) part.className = "strong";
        part.textContent = line;
        tip.append(part);
      });
      const attribute = (name) => point.getAttribute(name) || point.getAttribute("c" + name) || "0";
      ring.setAttribute("cx", attribute("x"));
      ring.setAttribute("cy", attribute("y"));
      point.parentNode.append(ring);
      const at = place(point), frame = figure.getBoundingClientRect();
      const left = Math.min(Math.max(at.x - frame.left + 14, 0), Math.max(frame.width - tip.offsetWidth, 0));
      const above = at.y - frame.top - tip.offsetHeight - 14;
      tip.style.left = left + "px";
      tip.style.top = (above > -40 ? above : at.y - frame.top + 16) + "px";
    }

    function hide() {
      tip.replaceChildren();
      ring.remove();
    }

    function nearest(event) {
      let best = null, distance = 34;
      for (const point of shown()) {
        const at = place(point);
        const here = Math.hypot(at.x - event.clientX, at.y - event.clientY) + (seriesOf(point).classList.contains("dots") ? 4 : 0);
        if (here < distance) [best, distance] = [point, here];
      }
      return best;
    }

    for (const kind of ["pointermove", "pointerdown"]) {
      plot.addEventListener(kind, (event) => {
        const point = nearest(event);
        if (point) show(point); else if (!plot.contains(document.activeElement)) hide();
      });
    }
    plot.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "touch") return;
      if (plot.contains(document.activeElement)) show(document.activeElement); else hide();
    });
    // Not on the drawing itself: Chromium makes an SVG element that listens for focus a stop of its own.
    const area = plot.parentElement;
    area.addEventListener("focusin", (event) => { show(event.target); enter(); });
    area.addEventListener("focusout", hide);
    area.addEventListener("keydown", (event) => {
      const here = document.activeElement;
      if (!points.includes(here)) return;
      const go = move(here, event.key);
      if (event.key === "Escape") { hide(); event.preventDefault(); return; }
      if (!go) return;
      event.preventDefault();
      go.focus();
    });

    function move(here, key) {
      const held = shown(), series = seriesOf(here);
      const row = held.filter((point) => seriesOf(point) === series).toSorted((a, b) => place(a).x - place(b).x);
      const k = row.indexOf(here);
      if (key === "ArrowRight") return row[k + 1];
      if (key === "ArrowLeft") return row[k - 1];
      if (key === "Home") return row[0];
      if (key === "End") return row.at(-1);
      if (key !== "ArrowDown" && key !== "ArrowUp") return null;
      const numbers = [...new Set(held.map(byNumber))].sort((a, b) => a - b);
      const next = numbers[numbers.indexOf(byNumber(here)) + (key === "ArrowDown" ? 1 : -1)];
      const x = place(here).x;
      const other = held.filter((point) => byNumber(point) === next);
      return other.toSorted((a, b) => Math.abs(place(a).x - x) - Math.abs(place(b).x - x))[0];
    }

    const buttons = [...figure.querySelectorAll("button[data-series]")];
    const seriesBy = (button) => plot.querySelector(`[data-series="${button.dataset.series}"]`);
    function toggle(button, on) {
      button.setAttribute("aria-pressed", String(on));
      seriesBy(button).classList.toggle("off", !on);
      if (!shown().includes(current)) { hide(); current = null; }
      enter();
    }
    function light(button) {
      const on = button && button.getAttribute("aria-pressed") === "true";
      plot.classList.toggle("dimmed", Boolean(on));
      for (const other of plot.querySelectorAll(".lit")) other.classList.remove("lit");
      if (on) seriesBy(button).classList.add("lit");
    }
    for (const button of buttons) {
      button.addEventListener("click", () => {
        toggle(button, button.getAttribute("aria-pressed") !== "true");
        light(null);
        wordOfAll();
      });
      button.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") light(button); });
      button.addEventListener("pointerleave", () => light(null));
    }
    const all = figure.querySelector("[data-all]");
    const baselines = buttons.filter((button) => "baseline" in button.dataset);
    const pressed = () => baselines.some((button) => button.getAttribute("aria-pressed") === "true");
    function wordOfAll() {
      if (all) all.textContent = pressed() ? "hide all baselines" : "show all baselines";
    }
    if (all && baselines.length > 1) {
      all.hidden = false;
      all.addEventListener("click", () => {
        const on = !pressed();
        for (const button of baselines) toggle(button, on);
        wordOfAll();
      });
    }
  }

  function budgets() {
    const choice = document.querySelector(".budgets");
    if (!choice) return;
    const panels = [...document.querySelectorAll(".panel")];
    const inputs = [...choice.querySelectorAll("input")];
    choice.hidden = false;
    const choose = (budget) => {
      for (const panel of panels) panel.hidden = panel.dataset.budget !== budget;
      for (const input of inputs) input.checked = input.value === budget;
    };
    choice.addEventListener("change", (event) => choose(event.target.value));
    const named = () => (panels.find((panel) => "#" + panel.id === location.hash) || {}).dataset?.budget;
    choose(named() || choice.dataset.first || inputs[0].value);
    addEventListener("hashchange", () => {
      const budget = named();
      if (!budget) return;
      choose(budget);
      document.getElementById("closer").scrollIntoView();
    });
  }
})();
