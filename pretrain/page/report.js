"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const tip = document.getElementById("tip");
  const maps = [...document.querySelectorAll(".map svg")];
  if (!tip || !maps.length) return;
  const told = tip.querySelector("p");
  const image = tip.querySelector("img");
  const side = Number(tip.dataset.side), columns = Number(tip.dataset.columns);
  const marks = maps.map((map) => [...map.querySelectorAll("use")]);
  const spots = marks.map((row) => row.map((mark) => [Number(mark.getAttribute("x")), Number(mark.getAttribute("y"))]));
  const rings = maps.map((map) => map.querySelector(".ring"));
  const scale = 96 / side;

  const say = (value) => (data.classes.length ? data.classes[value] : String(value));

  const text = (which, tile) => {
    const lines = [`${data.label}: ${say(data.targets[tile])}`];
    const found = data.predictions[which];
    if (found) lines.push(`${found.by} says: ${say(found.is[tile])}`);
    return [...lines, data.names[tile]].join("\n");
  };

  const place = (x, y) => {
    const box = tip.getBoundingClientRect();
    const left = x + 18 + box.width > innerWidth ? x - 18 - box.width : x + 18;
    const top = y + 18 + box.height > innerHeight ? y - 18 - box.height : y + 18;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.max(4, top)}px`;
  };

  const show = (which, tile, x, y) => {
    const row = Math.floor(tile / columns), column = tile % columns;
    image.style.transform = `scale(${scale}) translate(${-column * side}px, ${-row * side}px)`;
    told.textContent = text(which, tile);
    tip.hidden = false;
    maps[which].dataset.tile = tile;
    rings.forEach((ring, map) => {
      ring.setAttribute("cx", spots[map][tile][0]);
      ring.setAttribute("cy", spots[map][tile][1]);
      ring.style.visibility = "visible";
    });
    place(x, y);
  };

  const hide = () => {
    tip.hidden = true;
    rings.forEach((ring) => { ring.style.visibility = "hidden"; });
  };

  const onScreen = (which, tile) => {
    const box = maps[which].getBoundingClientRect(), view = maps[which].viewBox.baseVal;
    const [x, y] = spots[which][tile];
    return [box.left + (x / view.width) * box.width, box.top + (y / view.height) * box.height];
  };

  const nearest = (which, x, y, allowed) => {
    let best = -1, least = Infinity;
    spots[which].forEach(([px, py], tile) => {
      const far = (px - x) ** 2 + (py - y) ** 2;
      if (far < least && allowed(px - x, py - y)) { least = far; best = tile; }
    });
    return best;
  };

  const ways = {
    ArrowRight: (dx, dy) => dx > 0 && Math.abs(dy) <= dx,
    ArrowLeft: (dx, dy) => dx < 0 && Math.abs(dy) <= -dx,
    ArrowDown: (dx, dy) => dy > 0 && Math.abs(dx) <= dy,
    ArrowUp: (dx, dy) => dy < 0 && Math.abs(dx) <= -dy,
  };

  maps.forEach((map, which) => {
    const point = (event) => {
      const box = map.getBoundingClientRect(), view = map.viewBox.baseVal;
      const x = ((event.clientX - box.left) / box.width) * view.width;
      const y = ((event.clientY - box.top) / box.height) * view.height;
      const tile = nearest(which, x, y, () => true);
      if (tile >= 0) show(which, tile, event.clientX, event.clientY);
    };
    map.addEventListener("pointermove", point);
    map.addEventListener("pointerdown", point);
    map.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
    map.addEventListener("blur", hide);
    map.addEventListener("focus", () => {
      if (!map.matches(":focus-visible")) return;
      const tile = Number(map.dataset.tile ?? nearest(which, map.viewBox.baseVal.width / 2, map.viewBox.baseVal.height / 2, () => true));
      show(which, tile, ...onScreen(which, tile));
    });
    map.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { hide(); return; }
      const way = ways[event.key];
      if (!way) return;
      event.preventDefault();
      const now = Number(map.dataset.tile ?? 0);
      const next = nearest(which, ...spots[which][now], way);
      const tile = next < 0 ? now : next;
      show(which, tile, ...onScreen(which, tile));
    });
  });
  document.addEventListener("scroll", hide, { passive: true });
  document.addEventListener("pointerdown", (event) => { if (!event.target.closest(".map svg")) hide(); });

  document.querySelectorAll(".keys [data-key]").forEach((key) => {
    const group = Number(key.dataset.key);
    const light = () => marks.forEach((row) => row.forEach((mark, tile) => mark.classList.toggle("lit", data.groups[tile] === group)));
    key.addEventListener("pointerenter", () => { light(); maps.forEach((map) => map.classList.add("dim")); });
    key.addEventListener("pointerleave", () => maps.forEach((map) => map.classList.remove("dim")));
  });
})();
