/** From when on a telemetry tab shows messages: a word in the address, a time for the hub. Pure. */

/** Spans before now, in milliseconds. */
export const STARTS = { '5m': 300_000, '1h': 3_600_000, '6h': 21_600_000, '24h': 86_400_000 } as const
/** Nothing that was there before. */
export const NOW = 'now'

/** A word of STARTS, `now`, or a time that the hub can read; undefined is the latest few. */
export function readStart(text: string | undefined): string | undefined {
  if (text === undefined || Object.hasOwn(STARTS, text) || text === NOW) return text
  const time = Date.parse(text)
  return Number.isNaN(time) ? undefined : new Date(time).toISOString()
}

/** Milliseconds since 1970 at which the view begins; undefined is the latest few. */
export function startTime(start: string | undefined, now: number): number | undefined {
  if (start === undefined) return undefined
  if (start === NOW) return now
  if (Object.hasOwn(STARTS, start)) return now - STARTS[start as keyof typeof STARTS]
  const time = Date.parse(start)
  return Number.isNaN(time) ? undefined : time
}

/** For a field of the browser that takes local time: `2026-11-23T14:02`. */
export function localTime(time: number): string {
  const shifted = new Date(time - new Date(time).getTimezoneOffset() * 60_000)
  return shifted.toISOString().slice(0, 16)
}
