// Numbers: how they are written, and what is done to curves before they are drawn. Points are [x, y] pairs.

function format(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}

function grouped(count) {
  return String(count).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

/** Multiples of 1, 2 or 5 times a power of ten in [low, high], about `count` of them. */
function linearTicks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const ticks = [];
  for (let number = Math.ceil(low / step - 1e-9); number * step <= high + step * 1e-9; number++) {
    ticks.push(Number((number * step).toPrecision(12)));
  }
  return ticks;
}

/** Powers of ten in [low, high]; with their doubles and fives where they are few. */
function logTicks(low, high, count) {
  for (const factors of [[1], [1, 2, 5]]) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      ticks.push(...factors.map((factor) => Number((factor * 10 ** power).toPrecision(12))));
    }
    const inside = ticks.filter((tick) => tick >= low && tick <= high);
    if (inside.length >= 3) return inside.filter((_, place) => place % Math.ceil(inside.length / (2 * count)) === 0);
  }
  return linearTicks(low, high, count);
}

/** Exponential moving average, corrected for its start from zero: m = w m + (1 - w) y, drawn as m / (1 - w^n). */
function smoothed(points, weight) {
  let mean = 0, rest = 1;
  return points.map(([x, y]) => {
    mean = weight * mean + (1 - weight) * y;
    rest *= weight;
    return [x, mean / (1 - rest)];
  });
}

/** Keeps the least and the greatest point of each column of pixels, in their order. */
function thinned(points, columnOf) {
  const kept = [];
  let start = 0;
  while (start < points.length) {
    const column = columnOf(points[start][0]);
    let end = start, low = start, high = start;
    while (end < points.length && columnOf(points[end][0]) === column) {
      if (points[end][1] < points[low][1]) low = end;
      if (points[end][1] > points[high][1]) high = end;
      end++;
    }
    for (const place of low === high ? [low] : [Math.min(low, high), Math.max(low, high)]) kept.push(points[place]);
    start = end;
  }
  return kept;
}

/** Returns the place of the point whose x is nearest. */
function nearest(points, x) {
  let low = 0, high = points.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < x) low = middle + 1;
    else high = middle;
  }
  return low > 0 && x - points[low - 1][0] <= points[low][0] - x ? low - 1 : low;
}
