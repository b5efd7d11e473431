/** What flows from module to module and to the hub, what waits, and what was dropped and why. */
import { Alert, Card, Group, Skeleton, Stack, Table, Text, Title } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { Link, useNavigate } from '@tanstack/react-router'
import { Suspense, useMemo, useState, type ReactNode } from 'react'

import { currentContent, validate } from '../../api/queries'
import type { PipelineView } from '../../api/types'
import { useLive } from '../../live/browser'
import { AsOf, Empty } from '../../parts/common'
import { later } from '../../parts/later'
import type { EdgeFace, NodeFace } from '../../parts/graph'
import { moduleTone, State, type Tone } from '../../parts/state'
import { pretty } from '../../pure/json'
import { carries, graph, placeDrops, UPSTREAM, type Drop, type GraphEdge } from '../../pure/routes'
import { count, rate, span } from '../../pure/time'
import { useDevice } from './context'

const GraphView = later(() => import('../../parts/graph'))

/** A queue whose oldest message waits longer than this deserves a look, in seconds. */
const OLD_SECONDS = 10

export function Pipeline(): ReactNode {
  const { id, view } = useDevice()
  const navigate = useNavigate()
  const [data, setData] = useState<PipelineView>()
  const [gone, setGone] = useState<string>()
  useLive(view.edge ? `pipeline:${encodeURIComponent(id)}` : undefined, ({ data: news }) => setData(news as unknown as PipelineView), setGone)
  const modules = useMemo(() => (view.edge?.modules ?? []).filter((module) => !module.system), [view])
  // A device that tells nothing still has routes that are set; the hub's validator reads them.
  const silent = data !== undefined && data.problem !== null && data.routes.length === 0
  const set = useQuery({ queryKey: ['routes', id], queryFn: async ({ signal }) => (await validate(pretty(await currentContent(id, signal)), signal)).routes, enabled: silent })
  const routes = silent ? set.data : data?.routes
  const drawn = useMemo(() => graph(modules.map((module) => module.moduleId), routes ?? []), [modules, routes])
  if (view.edge === null) return <Empty title="No pipeline here">Only devices with the edge runtime route messages between modules. This one sends to the hub itself; see its telemetry.</Empty>
  if (gone !== undefined) return <Alert color="thread" title="No news of the pipeline">{gone}</Alert>
  if (!data) return <Skeleton height={420} />
  const drops = placeDrops(drawn.edges, data.dropped)
  const face = (name: string): NodeFace => withDrops(nodeFace(name, data, modules), drops.nodes.get(name))
  const edgeFace = (edge: string): EdgeFace => withDrops(faceOf(drawn.edges.find((held) => held.id === edge), data), drops.edges.get(edge))
  const open = (edge: string): void => {
    const from = drawn.edges.find((held) => held.id === edge)?.from
    if (from !== undefined) void navigate({ to: '/devices/$device/telemetry', params: { device: id }, search: { module: from } })
  }
  return (
    <Stack gap="md">
      {data.problem && (
        <Alert color="thread" variant="light" role="alert" title={data.problem.code === 'offline' ? 'The device is not connected' : 'The device tells nothing about its queues'}>
          {data.problem.message}. {data.asOf ? 'Numbers are the last that it told.' : 'The routes are those that are set.'}
        </Alert>
      )}
      <Group justify="space-between">
        <Text size="sm" c="dimmed">
          A click on a route opens the telemetry of its sender.
        </Text>
        <AsOf time={data.asOf} />
      </Group>
      {routes === undefined ? null : routes.length === 0 ? (
        <Empty title="No routes are set">
          Messages of modules go nowhere without a route. <Link to="/devices/$device/set-modules" params={{ device: id }}>Set modules and routes</Link>
        </Empty>
      ) : (
        <Suspense fallback={<Skeleton height={420} />}>
          {drops.nowhere.map((drop) => (
            <Text key={drop.reason} size="sm" data-nowhere={drop.total}>
              <State tone="warn">
                {count(drop.total)} dropped: {REASONS[drop.reason] ?? drop.reason}
              </State>
            </Text>
          ))}
          <GraphView graph={drawn} node={face} edge={edgeFace} open={open} label="Modules and routes" />
        </Suspense>
      )}
      <Numbers data={data} />
    </Stack>
  )
}

type Held = ReturnType<typeof useDevice>['view']['edge'] extends infer Edge ? (Edge extends { modules: infer Modules } ? Modules : never) : never

/** Two looks at the counters make a rate; after the first there is none yet. */
function flow(list: { perSecond: number | null }[]): string {
  const known = list.flatMap(({ perSecond }) => (perSecond === null ? [] : [perSecond]))
  if (known.length === 0 && list.length > 0) return '… msg/s'
  return `${rate(known.reduce((sum, each) => sum + each, 0))} msg/s`
}

function nodeFace(name: string, data: PipelineView, modules: Held): NodeFace {
  if (name === UPSTREAM) return { title: 'Hub', lines: [`${flow(data.sent.filter((sent) => sent.endpoint === UPSTREAM))} arriving`], tone: data.problem ? 'warn' : 'ok' }
  const module = modules.find((held) => held.moduleId === name)
  const sends = flow(data.received.filter((received) => received.from === name))
  if (!module) return { title: name, lines: ['not in the deployment'], tone: 'bad' }
  const restarts = module.reported?.restartCount ?? 0
  const state = `${module.reported?.runtimeStatus ?? 'not reported'}${restarts > 0 ? `, ${restarts} ${restarts === 1 ? 'restart' : 'restarts'}` : ''}`
  return { title: name, lines: [state, `${sends} out`], tone: moduleTone(module) }
}

function faceOf(edge: GraphEdge | undefined, data: PipelineView): EdgeFace {
  if (!edge) return { lines: [], tone: 'quiet' }
  const flows = data.received.filter((received) => carries(edge, received.from, received.output))
  const queue = data.queues.filter((held) => held.endpoint === edge.route.endpoint && held.priority === edge.route.priority)
  const waiting = queue.reduce((sum, held) => sum + held.length, 0)
  const oldest = Math.max(0, ...queue.map((held) => held.oldestAgeSeconds ?? 0))
  const lines = [edge.route.name, edge.route.condition === null ? flow(flows) : `of ${flow(flows)}, with a condition`]
  if (waiting > 0) lines.push(`${count(waiting)} waiting, oldest ${span(oldest * 1000)}`)
  return { lines, tone: oldest > OLD_SECONDS ? 'bad' : waiting > 0 ? 'warn' : 'ok' }
}

const nameOf = (endpoint: string | null): string => (endpoint === null ? 'no endpoint' : endpoint === UPSTREAM ? 'to the hub' : `to ${endpoint}`)
/** Azure's and our words for why a message went no further. */
const REASONS: Record<string, string> = {
  no_route: 'no route wanted it',
  ttl_expiry: 'it outlived its time to live',
  refused_upstream: 'the hub refuses it for good',
  sender_removed: 'its module was removed',
  damaged: 'it could not be read back',
}

/** How many went no further here, and why. */
function withDrops<Face extends { lines: string[]; tone: Tone }>(face: Face, drops: Drop[] | undefined): Face {
  if (drops === undefined) return face
  const lines = drops.map((drop) => `${count(drop.total)} dropped: ${REASONS[drop.reason] ?? drop.reason}`)
  return { ...face, lines: [...face.lines, ...lines], tone: face.tone === 'bad' ? 'bad' : 'warn' }
}

function Numbers({ data }: { data: PipelineView }): ReactNode {
  return (
    <Group align="stretch" grow gap="md" preventGrowOverflow={false}>
      <Card miw={300}>
        <Title order={2} mb="sm">
          Queues
        </Title>
        {data.queues.length === 0 && <Text c="dimmed">Nothing waits.</Text>}
        {data.queues.length > 0 && (
          <Table>
            <Table.Thead>
              <Table.Tr>
                <Table.Th>Where to</Table.Th>
                <Table.Th>Waiting</Table.Th>
                <Table.Th>Oldest</Table.Th>
                <Table.Th>Sent</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {data.queues.map((queue) => {
                const sent = data.sent.find((held) => held.endpoint === queue.endpoint && held.priority === queue.priority)
                return (
                  <Table.Tr key={`${queue.endpoint} ${queue.priority}`}>
                    <Table.Td>{nameOf(queue.endpoint)}</Table.Td>
                    <Table.Td>{count(queue.length)}</Table.Td>
                    <Table.Td className="nowrap">{queue.oldestAgeSeconds === null ? '–' : span(queue.oldestAgeSeconds * 1000)}</Table.Td>
                    <Table.Td className="nowrap">{sent && sent.perSecond !== null ? `${rate(sent.perSecond)}/s` : '–'}</Table.Td>
                  </Table.Tr>
                )
              })}
            </Table.Tbody>
          </Table>
        )}
      </Card>
      <Card miw={300}>
        <Title order={2} mb="sm">
          Dropped
        </Title>
        {data.dropped.every((drop) => drop.total === 0) ? (
          <State tone="ok">Nothing was dropped since the runtime started{data.uptimeSeconds !== null && ` ${span(data.uptimeSeconds * 1000)} ago`}.</State>
        ) : (
          <Table>
            <Table.Thead>
              <Table.Tr>
                <Table.Th>Why</Table.Th>
                <Table.Th>Where to</Table.Th>
                <Table.Th>Messages</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {data.dropped
                .filter((drop) => drop.total > 0)
                .map((drop) => (
                  <Table.Tr key={`${drop.reason} ${drop.endpoint}`}>
                    <Table.Td>{REASONS[drop.reason] ?? drop.reason}</Table.Td>
                    <Table.Td>{drop.endpoint === null ? '–' : nameOf(drop.endpoint)}</Table.Td>
                    <Table.Td>{count(drop.total)}</Table.Td>
                  </Table.Tr>
                ))}
            </Table.Tbody>
          </Table>
        )}
      </Card>
    </Group>
  )
}
