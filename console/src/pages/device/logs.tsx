/** Lines of one module, as it writes them. */
import { Alert, Card, Group, Select, Stack, Text, TextInput } from '@mantine/core'
import { useDocumentTitle } from '@mantine/hooks'
import { useNavigate } from '@tanstack/react-router'
import { useMemo, useRef, useState, type CSSProperties, type ReactNode } from 'react'

import type { LogLines, Problem } from '../../api/types'
import { logsRoute } from '../../app/router'
import { useLive } from '../../live/browser'
import { Command, Empty } from '../../parts/common'
import { Window } from '../../parts/window'
import { Ring } from '../../pure/ring'
import { count, fine, moment } from '../../pure/time'
import { logNames, quoted, useDevice } from './context'

const LINES_MAX = 20_000
const LINE_PX = 20
/** syslog: 0 to 3 are errors, 4 is a warning. */
const ERROR_LEVEL = 3
const WARNING_LEVEL = 4

type Line = LogLines['lines'][number] & { number: number }

export function Logs(): ReactNode {
  const { id, view } = useDevice()
  const { module, find } = logsRoute.useSearch()
  const navigate = useNavigate()
  const names = logNames(view)
  const chosen = module ?? names[0]
  useDocumentTitle(`${id} logs · Selvedge`)
  if (chosen === undefined) {
    return <Empty title="No modules, no logs">Logs are those of modules that the edge runtime runs. This device has none in its deployment.</Empty>
  }
  const set = (part: { module?: string | undefined; find?: string | undefined }): void => void navigate({ to: '.', search: { module: chosen, find, ...part }, replace: true })
  return (
    <Stack gap="sm">
      <Group gap="sm" align="flex-end">
        <Select label="Module" data={names} value={chosen} onChange={(name) => name !== null && set({ module: name })} allowDeselect={false} w={200} />
        <TextInput label="Show lines with" placeholder="any text" value={find ?? ''} onChange={(event) => set({ find: event.currentTarget.value || undefined })} flex={1} miw={200} />
      </Group>
      <Follow key={`${id} ${chosen}`} device={id} module={chosen} find={find} />
      <Command
        text={`selvedge method ${quoted(id)} -m '$edgeAgent' GetModuleLogs '${JSON.stringify({ schemaVersion: '1.0', items: [{ id: chosen, filter: { tail: 200 } }], encoding: 'none', contentType: 'text' })}'`}
      />
    </Stack>
  )
}

function Follow({ device, module, find }: { device: string; module: string; find: string | undefined }): ReactNode {
  const [ring] = useState(() => new Ring<Line>(LINES_MAX))
  const [version, setVersion] = useState(0)
  const [problem, setProblem] = useState<Problem | null>(null)
  const [ended, setEnded] = useState<string>()
  const state = useRef({ dropped: 0, heard: false, pollSeconds: 0 })
  useLive(
    `logs:${encodeURIComponent(device)}/${encodeURIComponent(module)}`,
    ({ data, dropped }) => {
      const news = data as unknown as LogLines
      const first = ring.total
      ring.push(news.lines.map((line, index) => ({ ...line, number: first + index })))
      state.current = { dropped: state.current.dropped + dropped, heard: true, pollSeconds: news.pollSeconds }
      setEnded(undefined)
      setProblem(news.problem)
      setVersion((value) => value + 1)
    },
    setEnded,
  )
  const lines = useMemo(() => {
    const all: Line[] = []
    const wanted = find?.toLowerCase()
    for (let index = 0; index < ring.length; index += 1) {
      const line = ring.at(index)
      if (line && (wanted === undefined || line.text.toLowerCase().includes(wanted))) all.push(line)
    }
    return all
  }, [ring, version, find])
  const { dropped, heard, pollSeconds } = state.current
  const row = (index: number, style: CSSProperties): ReactNode => {
    const line = lines[index]
    if (!line) return null
    const at = moment(line.at)
    const level = line.level === null ? 'plain' : line.level <= ERROR_LEVEL ? 'bad' : line.level === WARNING_LEVEL ? 'warn' : 'plain'
    return (
      <div key={line.number} className="row" style={style} data-level={level} data-line={line.number}>
        <span className="when">{at === undefined ? '            ' : fine(at)}</span>
        <span>{line.text}</span>
      </div>
    )
  }
  return (
    <>
      {(problem ?? ended) !== null && (problem || ended !== undefined) && (
        <Alert color="thread" variant="light" role="alert" title={problem?.code === 'offline' ? 'The device is not connected' : 'The device gives no log'}>
          {problem?.message ?? ended}. {problem?.code === 'offline' && 'Below are the lines that were read before; more come when it is back.'}
        </Alert>
      )}
      {lines.length === 0 ? (
        <Card>
          <Text>{!heard ? 'Asking the device…' : find !== undefined ? 'No line has this text so far.' : 'The module has written nothing yet.'}</Text>
        </Card>
      ) : (
        <Window count={lines.length} total={find === undefined ? ring.total : lines.length} rowHeight={LINE_PX} height="min(66vh, 640px)" label={`Log of ${module}`} className="log" news="bottom" row={row} />
      )}
      <Text size="sm" c="dimmed" role="status">
        {count(lines.length)} lines{dropped > 0 && ` · dropped by view: ${count(dropped)}`}
        {pollSeconds > 0 && ` · read from the device every ${pollSeconds} s while somebody looks`}
      </Text>
    </>
  )
}
