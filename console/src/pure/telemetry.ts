/** Messages as rows: parsed once, kept in a ring, counted honestly. Pure. */
import type { Message } from '../api/types'
import { isObject, number, text, type Json } from './json'
import { Ring } from './ring'
import { anomaly, jsonBody, leaves, type Anomaly } from './series'

/** Rows that a tab holds; older ones are let go. */
export const ROWS_MAX = 100_000
/** Characters of a body that a row shows. */
const PREVIEW_CHARS = 240

export type Row = {
  message: Message
  time: number
  module: string
  output: string
  seq: number | undefined
  preview: string
  anomaly: Anomaly | undefined
  /** Numbers by path; none for anomalies, which tell of other messages. */
  numbers: [string, number][]
}

export function rowOf(message: Message): Row {
  const output = text(message.systemProperties.outputName)
  const body = jsonBody(message.body, message.bodyEncoding)
  const found = anomaly(output, body)
  const numbers = found ? [] : leaves(body)
  return {
    message,
    time: Date.parse(message.enqueuedTime),
    module: message.moduleId ?? '',
    output,
    seq: isObject(body) ? number(body.seq) : undefined,
    preview: preview(message, body, found, numbers),
    anomaly: found,
    numbers,
  }
}

function preview(message: Message, body: Json | undefined, found: Anomaly | undefined, numbers: [string, number][]): string {
  if (found) return `${found.metric} = ${round(found.value)}, score ${round(found.score)}`
  if (message.bodyEncoding === 'base64') return `${message.body.length} characters of base64`
  if (body === undefined) return message.body.slice(0, PREVIEW_CHARS)
  let text = ''
  for (const [path, value] of numbers) {
    if (path === 'seq') continue
    text += `${text === '' ? '' : '  '}${path} ${round(value)}`
    if (text.length > PREVIEW_CHARS) return text.slice(0, PREVIEW_CHARS)
  }
  return text === '' ? message.body.slice(0, PREVIEW_CHARS) : text
}

const round = (value: number): string => (Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(6))))

/** All that a telemetry tab holds. Changes by its own methods; `version` says that it did. */
export class Rows {
  readonly ring: Ring<Row>
  /** Messages that passed the filter and are not shown: left out by the hub, or let go by the ring. */
  dropped = 0
  /** Which paths have numbers, and from which module and output. */
  readonly paths = new Map<string, string>()
  readonly anomalies: Row[] = []
  version = 0
  private readonly ends = new Map<number, number>()

  constructor(capacity = ROWS_MAX) {
    this.ring = new Ring(capacity)
  }

  /** Messages in order; those that were taken already are passed over. */
  take(messages: readonly Message[], dropped = 0): number {
    const fresh = messages.filter(({ partition, offset }) => {
      const end = this.ends.get(partition) ?? -1
      if (offset <= end) return false
      this.ends.set(partition, offset)
      return true
    })
    const rows = fresh.map(rowOf)
    const before = this.ring.first
    this.ring.push(rows)
    this.dropped += dropped + (this.ring.first - before)
    for (const row of rows) {
      if (row.anomaly) this.anomalies.push(row)
      for (const [path] of row.numbers) if (!this.paths.has(path)) this.paths.set(path, row.module)
    }
    if (this.anomalies.length > 500) this.anomalies.splice(0, this.anomalies.length - 500)
    this.version += 1
    return rows.length
  }

  /** The row of one message, if it is still held. */
  find(partition: number, offset: number): Row | undefined {
    for (const row of this.ring.newest()) if (row.message.offset === offset && row.message.partition === partition) return row
    return undefined
  }

  /** Points of one path since `from`, newest first. */
  *points(path: string, from: number): Generator<{ time: number; value: number }> {
    for (const row of this.ring.newest()) {
      if (row.time < from) return
      const held = row.numbers.find(([name]) => name === path)
      if (held) yield { time: row.time, value: held[1] }
    }
  }
}
