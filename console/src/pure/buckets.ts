/** Points in time, thinned to what a chart can show. Nothing is averaged away: each bucket keeps
 * its smallest and its largest value, so a spike of one second stays a spike. Pure. */

export type Point = { time: number; value: number }
/** Columns as the chart takes them: seconds, lowest, highest. Gaps are null. */
export type Columns = { times: number[]; low: (number | null)[]; high: (number | null)[]; last: (number | null)[] }

/** Points one after the other further apart than this many usual steps are a gap. */
const GAP_STEPS = 5

/**
 * At most `count` buckets of equal width between `from` and `to` (milliseconds). Points need not
 * be in order. Buckets without points are left out; a gap that is longer than usual is drawn as one.
 */
export function buckets(points: Iterable<Point>, from: number, to: number, count: number): Columns {
  const width = Math.max(1, (to - from) / Math.max(1, count))
  const slots: ({ low: number; high: number; time: number; last: number } | undefined)[] = []
  for (const { time, value } of points) {
    if (time < from || time > to || !Number.isFinite(value)) continue
    const index = Math.min(Math.max(0, count - 1), Math.floor((time - from) / width))
    const slot = slots[index]
    if (slot === undefined) slots[index] = { low: value, high: value, time, last: value }
    else {
      slot.low = Math.min(slot.low, value)
      slot.high = Math.max(slot.high, value)
      if (time >= slot.time) [slot.time, slot.last] = [time, value]
    }
  }
  const used = slots.filter((slot) => slot !== undefined)
  const gap = usualStep(used.map((slot) => slot.time)) * GAP_STEPS
  const columns: Columns = { times: [], low: [], high: [], last: [] }
  let before: number | undefined
  for (const slot of used) {
    if (before !== undefined && slot.time - before > gap) push(columns, (before + slot.time) / 2, null)
    push(columns, slot.time, slot)
    before = slot.time
  }
  return columns
}

function push(columns: Columns, time: number, slot: { low: number; high: number; last: number } | null): void {
  columns.times.push(time / 1000)
  columns.low.push(slot?.low ?? null)
  columns.high.push(slot?.high ?? null)
  columns.last.push(slot?.last ?? null)
}

/** The middle of the steps; infinite while there are too few to tell. */
function usualStep(times: number[]): number {
  const steps = times.slice(1).map((time, index) => time - (times[index] ?? time))
  if (steps.length < 3) return Infinity
  steps.sort((a, b) => a - b)
  return Math.max(1000, steps[Math.floor(steps.length / 2)] ?? Infinity)
}
