/** A line over time with its band of lowest and highest, and marks where something was found. */
import 'uplot/dist/uPlot.min.css'

import { useComputedColorScheme } from '@mantine/core'
import { useElementSize } from '@mantine/hooks'
import { useEffect, useRef, type ReactNode } from 'react'
import uPlot from 'uplot'

import type { Columns } from '../pure/buckets'
import { clock, short } from '../pure/time'

export type Mark = { time: number; value: number }

/** All charts of a page share the cursor. */
const sync = uPlot.sync('telemetry')

export type ChartProps = { columns: Columns; marks: Mark[]; range: [number, number]; label: string; height?: number }

export function Chart({ columns, marks, range, label, height = 150 }: ChartProps): ReactNode {
  const { ref: box, width } = useElementSize()
  const place = useRef<HTMLDivElement>(null)
  const plot = useRef<uPlot>(null)
  const shown = useRef({ marks, range })
  shown.current = { marks, range }
  const scheme = useComputedColorScheme('light')

  useEffect(() => {
    if (!place.current || width === 0) return undefined
    const made = new uPlot(options(width, height, colours(scheme === 'dark'), shown), data(columns), place.current)
    plot.current = made
    return () => {
      plot.current = null
      made.destroy()
    }
    // The data follows below; a new plot is made only for a new size or theme.
  }, [width, height, scheme])
  useEffect(() => plot.current?.setData(data(columns)), [columns, marks])

  const last = columns.last.findLast((value) => value !== null)
  return (
    <div ref={box} className="chart" role="img" aria-label={`${label}: ${last === null || last === undefined ? 'no numbers yet' : `now ${short(last)}`}, ${marks.length} anomalies`}>
      <div ref={place} style={{ minHeight: height }} />
    </div>
  )
}

type Colours = { line: string; band: string; grid: string; text: string; mark: string }

function colours(dark: boolean): Colours {
  return dark
    ? { line: '#92aedb', band: '#5a83c84d', grid: '#26304a', text: '#a3aec6', mark: '#ff6b7a' }
    : { line: '#2f5a9e', band: '#5a83c83d', grid: '#ebe9e2', text: '#56607a', mark: '#b32a3b' }
}

function data(columns: Columns): uPlot.AlignedData {
  return [columns.times, columns.low, columns.high, columns.last]
}

function options(width: number, height: number, colour: Colours, shown: { current: { marks: Mark[]; range: [number, number] } }): uPlot.Options {
  const axis = { stroke: colour.text, grid: { stroke: colour.grid, width: 1 }, ticks: { show: false }, font: '11px sans-serif' }
  const quiet = { stroke: 'transparent', points: { show: false } }
  return {
    width,
    height,
    legend: { show: false },
    cursor: { sync: { key: sync.key }, drag: { x: false, y: false }, points: { size: 6 } },
    scales: {
      x: { time: true, range: () => [shown.current.range[0] / 1000, shown.current.range[1] / 1000] },
      y: { range: (_, low, high) => span(low, high, shown.current.marks) },
    },
    axes: [{ ...axis, size: 24, space: 70, values: (_, ticks) => ticks.map(minute) }, { ...axis, size: 56, values: (_, ticks) => ticks.map(short) }],
    series: [{}, quiet, quiet, { stroke: colour.line, width: 1.6, points: { show: false } }],
    bands: [{ series: [2, 1], fill: colour.band }],
    hooks: { draw: [(plot) => drawMarks(plot, shown.current.marks, colour.mark)] },
  }
}

/** `14:02`, with seconds where they tell something. */
function minute(seconds: number): string {
  const text = clock(seconds * 1000, seconds * 1000)
  return text.endsWith(':00') ? text.slice(0, 5) : text
}

/** Room around the values; a flat line lies in the middle. */
function span(low: number | null, high: number | null, marks: Mark[]): [number, number] {
  const values = marks.map((mark) => mark.value)
  const least = Math.min(low ?? Infinity, ...values)
  const most = Math.max(high ?? -Infinity, ...values)
  if (!Number.isFinite(least) || !Number.isFinite(most)) return [0, 1]
  const room = most > least ? (most - least) * 0.08 : Math.max(1, Math.abs(most) * 0.1)
  return [least >= 0 && least - room < 0 ? 0 : least - room, most + room]
}

function drawMarks(plot: uPlot, marks: Mark[], colour: string): void {
  const { ctx } = plot
  const size = 5 * devicePixelRatio
  ctx.save()
  ctx.fillStyle = colour
  for (const mark of marks) {
    const x = plot.valToPos(mark.time / 1000, 'x', true)
    const y = plot.valToPos(mark.value, 'y', true)
    if (x < plot.bbox.left || x > plot.bbox.left + plot.bbox.width) continue
    ctx.beginPath()
    ctx.moveTo(x, y - size)
    ctx.lineTo(x + size, y)
    ctx.lineTo(x, y + size)
    ctx.lineTo(x - size, y)
    ctx.fill()
  }
  ctx.restore()
}
