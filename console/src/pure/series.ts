/** Numbers inside message bodies: which there are, and which a person wants to see first. Pure. */
import { isObject, number, parsed, text, type Json } from './json'

/** Most numbers that are looked for in one body. */
export const PATHS_MAX = 128

/** Every number in a body by its path: `cpu.percent`, `cpu.cores.0`. */
export function leaves(body: Json | undefined): [string, number][] {
  const found: [string, number][] = []
  const visit = (value: Json | undefined, path: string): void => {
    if (found.length >= PATHS_MAX) return
    if (typeof value === 'number' && Number.isFinite(value)) found.push([path, value])
    else if (Array.isArray(value)) value.forEach((inner, index) => visit(inner, join(path, String(index))))
    else if (isObject(value)) for (const [key, inner] of Object.entries(value)) visit(inner, join(path, key))
  }
  visit(body, '')
  return found
}

function join(path: string, key: string): string {
  return path === '' ? key : `${path}.${key}`
}

/** Counters and identifiers say nothing as a line. */
const DULL = /(^|\.)(seq|count|id|version|total|totalBytes)$/i
const TELLING = [/percent/i, /temp|pressure|humid|vibration|current|voltage|power|level|speed/i, /load|rate|persecond/i]

/** Paths, the telling ones first. */
export function ranked(paths: Iterable<string>): string[] {
  const rank = (path: string): number => {
    if (DULL.test(path)) return 9
    const telling = TELLING.findIndex((pattern) => pattern.test(path))
    // `cpu.percent` before `cpu.cores.0`.
    return (telling < 0 ? 5 : telling) + path.split('.').length / 10
  }
  return [...paths].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b))
}

export type Anomaly = { metric: string; value: number; score: number; seq?: number | undefined; threshold?: number | undefined }

/** The message of an anomaly detector: output `anomalies`, with metric, value and score. */
export function anomaly(output: string, body: Json | undefined): Anomaly | undefined {
  if (output !== 'anomalies' || !isObject(body)) return undefined
  const [metric, value, score] = [text(body.metric), number(body.value), number(body.score)]
  if (metric === '' || value === undefined || score === undefined) return undefined
  return { metric, value, score, seq: number(body.seq), threshold: number(body.threshold) }
}

/** A body that is JSON, or undefined. */
export function jsonBody(body: string, encoding: string): Json | undefined {
  const first = body.trimStart()[0]
  return encoding === 'utf-8' && (first === '{' || first === '[') ? parsed(body) : undefined
}
